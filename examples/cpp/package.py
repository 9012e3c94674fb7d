"""Packs a byte-level language model for generate.cpp, with AOTInductor, and continues a text with it from Python.

    python examples/cpp/package.py model.pt2                 # trained as examples/train_lm.py does
    python examples/cpp/package.py model.pt2 --steps 0       # weights as they are drawn

Says what Python generates and how fast, from the model as it is and from the package.
"""

import argparse
import time
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from pylayers.benchmarks.language_model import OURS, Config, LanguageModel, Trainer, batches, standard_library

Scores = Callable[[Tensor], Tensor]


class NextScores(nn.Module):
    """Tokens [1, tokens] → scores [1, 256] of the byte that follows the last."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model(tokens)[:, -1]


def pack(scores: nn.Module, path: Path, window: int) -> Path:
    """Compiles the model into path, for 1 to `window` tokens."""
    example = (torch.zeros(1, 8, dtype=torch.long),)
    with torch.no_grad():
        program = torch.export.export(scores, example, dynamic_shapes=({1: torch.export.Dim("tokens", min=1, max=window)},))
        said = {"pylayers.window": str(window), "pylayers.torch": torch.__version__}
        torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs={"aot_inductor.metadata": said})
    seal(path)
    return path


def seal(path: Path) -> None:
    """Ends the file with a checksum, as the comment that an archive may have: torch checks none before the code in it runs."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"crc32 00000000"
    content = path.read_bytes()[:-8]
    path.write_bytes(content + b"%08x" % zlib.crc32(content))


@torch.no_grad()
def continued(scores: Scores, prompt: bytes, count: int, window: int) -> bytes:
    """The prompt and `count` bytes, each the likeliest."""
    text = list(prompt)
    for _ in range(count):
        text.append(scores(torch.tensor([text[-window:]])).argmax().item())
    return bytes(text)


def trained(config: Config) -> LanguageModel:
    trainer, (text, held_out) = Trainer(config, OURS, torch.device("cpu")), standard_library()
    for windows in batches(text, config, config.steps, trainer.device, seed=config.seed):
        trainer.step(windows)
    print(f"held-out loss after {config.steps} steps: {trainer.held_out_loss(held_out):.3f}")
    return trainer.model.eval()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, metavar="MODEL.pt2")
    parser.add_argument("--prompt", default="def ")
    parser.add_argument("--bytes", type=int, default=100)
    for name in ("steps", "batch", "tokens", "dim", "hidden", "heads", "blocks", "seed"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Config, name))
    args = parser.parse_args()
    if args.path.suffix != ".pt2" or not args.prompt:
        parser.error(f"the path must end in .pt2, and the prompt have a byte, got {args.path} and {args.prompt!r}")
    return args


def main() -> None:
    args = arguments()
    config = replace(Config(), **{name: value for name, value in vars(args).items() if hasattr(Config, name)})
    scores = NextScores(trained(config))
    pack(scores, args.path, config.tokens)
    prompt = args.prompt.encode()
    for name, one in (("eager", scores), ("package", torch._inductor.aoti_load_package(str(args.path)))):
        continued(one, prompt, 1, config.tokens)  # the first call takes longer
        start = time.perf_counter()
        text = continued(one, prompt, args.bytes, config.tokens)
        print(f"{name}: {args.bytes / (time.perf_counter() - start):.1f} bytes/s\n{text.decode(errors='replace')}")


if __name__ == "__main__":
    main()
