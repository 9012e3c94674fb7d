"""Trains a byte-level language model on the source code of Python's standard library.

    python examples/train_lm.py                    # our layers
    python examples/train_lm.py --layers torch     # the same model on torch.nn
    python examples/train_lm.py --bytes-per-token 2    # a vocabulary of 65,536
    python examples/train_lm.py --compile --bfloat16 --device cuda --dim 768 --blocks 8
    torchrun --nproc-per-node=2 examples/train_lm.py --parallel fsdp       # or ddp, tp; with GPUs over NCCL
    torchrun --nproc-per-node=2 --max-restarts=3 examples/train_lm.py --parallel fsdp --checkpoint run     # goes on when a rank dies

Says too what a step takes in memory, with LinearCrossEntropyLoss and with the loss of logits that exist.
"""

import argparse
import os
import shutil
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import DeviceMesh

from pylayers.benchmarks import parallelism
from pylayers.benchmarks.language_model import OURS, TORCH, Config, Layers, LossOfLogits, Trainer, batches, standard_library
from pylayers.benchmarks.memory import peak_bytes

Text = tuple[torch.Tensor, torch.Tensor]  # to learn from, and held out


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", choices=("pylayers", "torch"), default="pylayers")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true", help="train through torch.compile")
    parser.add_argument("--bfloat16", action="store_true", help="compute in bfloat16 under autocast")
    parser.add_argument("--parallel", choices=parallelism.KINDS, default="none", help="how processes that torchrun started share the work")
    parser.add_argument("--checkpoint", type=Path, help="a folder to resume from, on any number of ranks, and to save in")
    parser.add_argument("--save-every", type=int, default=50, metavar="STEPS", help="the last two checkpoints are kept")
    for name in ("steps", "batch", "tokens", "dim", "hidden", "heads", "blocks", "bytes_per_token"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(Config, name))
    args = parser.parse_args()
    if args.save_every < 1:
        parser.error(f"--save-every must be at least 1, got {args.save_every}")
    return args


def peak_of_a_step(config: Config, layers: Layers, device: torch.device, bfloat16: bool, windows: torch.Tensor) -> str:
    trainer = Trainer(config, layers, device, bfloat16=bfloat16)
    trainer.step(windows)  # the first one makes the state of the optimiser
    peak = peak_bytes(lambda: trainer.step(windows), device)
    return "unknown" if peak is None else f"{peak / 1e6:,.0f} MB"


def train(args: argparse.Namespace, config: Config, text: Text, device: torch.device, mesh: DeviceMesh | None, say: Callable[..., None]) -> Trainer:
    layers = TORCH if args.layers == "torch" else OURS
    spread = parallelism.spread(args.parallel, mesh, config, bfloat16=args.bfloat16)
    autocast = args.bfloat16 and args.parallel != "fsdp"  # which casts what it gathers
    trainer = Trainer(config, layers, device, compiled=args.compile, bfloat16=autocast, spread=spread)
    training, held_out = text
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    say(f"{parameters:,} parameters, {len(training):,} bytes to learn from, {len(held_out):,} held out")
    if args.checkpoint and resume(trainer, args.checkpoint):
        say(f"going on from step {trainer.done}")
    held_out_loss = parallelism.everywhere(trainer.held_out_loss(held_out), args.parallel)
    say(f"held-out loss before: {held_out_loss:.3f}")

    start, seen = time.perf_counter(), 0
    for step, windows in enumerate(batches(training, config, config.steps, device, seed=config.seed), 1):
        if step <= trainer.done:
            continue
        loss = parallelism.everywhere(trainer.step(parallelism.own_rows(windows, args.parallel, mesh)), args.parallel)
        seen += config.batch * config.tokens
        if step % 10 == 0 or step == config.steps:
            say(f"step {step:4d}  loss {loss:.3f}  {seen / (time.perf_counter() - start):,.0f} tokens/s")
        if args.checkpoint and (step % args.save_every == 0 or step == config.steps):
            save(trainer, args.checkpoint)
    held_out_loss = parallelism.everywhere(trainer.held_out_loss(held_out), args.parallel)
    say(f"held-out loss after:  {held_out_loss:.3f}")
    return trainer


def state_of(trainer: Trainer) -> dict:
    model, optimizer = get_state_dict(trainer.model, trainer.optimizer)
    return {"model": model, "optimizer": optimizer, "steps": trainer.done}


def whole_checkpoints(folder: Path) -> list[Path]:
    """The newest first. Metadata is written last."""
    return sorted((one.parent for one in folder.glob("step-*/.metadata")), key=lambda one: int(one.name.removeprefix("step-")), reverse=True)


def save(trainer: Trainer, folder: Path, keep: int = 2) -> None:
    """What every rank has of it, in one folder that any number of ranks can read."""
    dcp.save(state_of(trainer), checkpoint_id=folder / f"step-{trainer.done}", no_dist=not dist.is_initialized())
    for old in whole_checkpoints(folder)[keep:] if first_rank() else ():
        (old / ".metadata").unlink()
        shutil.rmtree(old)


def resume(trainer: Trainer, folder: Path) -> bool:
    """From the last whole checkpoint, if there is one."""
    saved = whole_checkpoints(folder)
    if saved:
        state = state_of(trainer)
        dcp.load(state, checkpoint_id=saved[0], no_dist=not dist.is_initialized())
        set_state_dict(trainer.model, trainer.optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
        trainer.done = state["steps"]
    return bool(saved)


def first_rank() -> bool:
    return int(os.environ.get("RANK", 0)) == 0


def main() -> None:
    args = arguments()
    config = replace(Config(), **{name: getattr(args, name) for name in vars(args) if hasattr(Config, name)})
    many, text = args.parallel != "none", standard_library()
    device = torch.device(args.device)
    say = print if first_rank() else lambda *_: None
    with parallelism.processes(device) if many else nullcontext() as mesh:
        trainer = train(args, config, text, device, mesh, say)
    if many:
        return
    probe = next(batches(text[0], config, 1, device, seed=2))
    with_logits, without = (peak_of_a_step(config, one, device, args.bfloat16, probe) for one in (replace(OURS, loss=LossOfLogits), OURS))
    print(f"peak memory of a step: {with_logits} with logits, {without} with LinearCrossEntropyLoss")
    print(trainer.generate(b"def ", 300).decode(errors="replace"))


if __name__ == "__main__":
    main()
