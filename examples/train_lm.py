"""Trains a byte-level language model on the source code of Python's standard library.

    python examples/train_lm.py                    # our layers
    python examples/train_lm.py --layers torch     # the same model on torch.nn
    python examples/train_lm.py --bytes-per-token 2    # a vocabulary of 65,536
    python examples/train_lm.py --compile --bfloat16 --device cuda --dim 768 --blocks 8

Says too what a step takes in memory, with LinearCrossEntropyLoss and with the loss of logits that exist.
"""

import argparse
import time
from dataclasses import replace

import torch

from pylayers.benchmarks.language_model import OURS, TORCH, Config, Layers, LossOfLogits, Trainer, batches, standard_library
from pylayers.benchmarks.memory import peak_bytes


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", choices=("pylayers", "torch"), default="pylayers")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true", help="train through torch.compile")
    parser.add_argument("--bfloat16", action="store_true", help="compute in bfloat16 under autocast")
    for name in ("steps", "batch", "tokens", "dim", "hidden", "heads", "blocks", "bytes_per_token"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(Config, name))
    return parser.parse_args()


def peak_of_a_step(config: Config, layers: Layers, device: torch.device, bfloat16: bool, windows: torch.Tensor) -> str:
    trainer = Trainer(config, layers, device, bfloat16=bfloat16)
    trainer.step(windows)  # the first one makes the state of the optimiser
    peak = peak_bytes(lambda: trainer.step(windows), device)
    return "unknown" if peak is None else f"{peak / 1e6:,.0f} MB"


def main() -> None:
    args = arguments()
    config = replace(Config(), **{name: getattr(args, name) for name in vars(args) if hasattr(Config, name)})
    device = torch.device(args.device)
    layers = TORCH if args.layers == "torch" else OURS
    trainer = Trainer(config, layers, device, compiled=args.compile, bfloat16=args.bfloat16)
    training, held_out = standard_library()
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    print(f"{parameters:,} parameters, {len(training):,} bytes to learn from, {len(held_out):,} held out")
    print(f"held-out loss before: {trainer.held_out_loss(held_out):.3f}")

    start, seen = time.perf_counter(), 0
    for step, windows in enumerate(batches(training, config, config.steps, device, seed=config.seed), 1):
        loss = trainer.step(windows)
        seen += config.batch * config.tokens
        if step % 10 == 0 or step == config.steps:
            print(f"step {step:4d}  loss {loss:.3f}  {seen / (time.perf_counter() - start):,.0f} tokens/s")

    probe = next(batches(training, config, 1, device, seed=2))
    with_logits, without = (peak_of_a_step(config, one, device, args.bfloat16, probe) for one in (replace(OURS, loss=LossOfLogits), OURS))
    print(f"peak memory of a step: {with_logits} with logits, {without} with LinearCrossEntropyLoss")
    print(f"held-out loss after:  {trainer.held_out_loss(held_out):.3f}")
    print(trainer.generate(b"def ", 300).decode(errors="replace"))


if __name__ == "__main__":
    main()
