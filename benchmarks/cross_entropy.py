"""The cross entropy of logits: with classes, and with all that a language model's training adds to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F

import pylayers
from pylayers import functional, reference

from .harness import Benchmark, Function, ModuleBenchmark, Size, random
from .traffic import ACCUMULATOR, SECTOR, Traffic

HEADLINE = (2048, 32000)
# [rows, classes], from ten classes to the vocabulary of Llama 3.
SIZES: Mapping[str, Sequence[Size]] = {
    "cpu": ((128, 10), (256, 1000), (333, 1001), HEADLINE, (256, 128256)),
    "cuda": ((128, 10), (256, 1000), (333, 1001), HEADLINE, (8192, 32000), (4096, 128256)),
}
VOCABULARY = 128256
TRAINING = {"label_smoothing": 0.1, "z_loss": 1e-4}


def inputs(rows: int, classes: int, **kind):
    return (random(rows, classes, **kind),)


def with_targets(function: Callable[..., torch.Tensor], dim: int = 1) -> Function:
    """Of all but the targets, one for each row of the first: they are made once for each size, outside what is timed. The classes
    are dimension `dim` of the last."""
    targets: dict[tuple, torch.Tensor] = {}

    def call(*operands: torch.Tensor) -> torch.Tensor:
        rows, classes, device = len(operands[0]), operands[-1].shape[dim], operands[0].device
        key = (rows, classes, device)
        if key not in targets:
            targets[key] = torch.arange(rows, device=device) * 7919 % classes
        return function(*operands, targets[key])

    return call


class OfOneRow(torch.nn.Module):
    """A loss as a module of logits alone."""

    def __init__(self, loss: torch.nn.Module) -> None:
        super().__init__()
        self.loss = loss
        self.register_buffer("target", torch.zeros(1, dtype=torch.int64))

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return self.loss(logits, self.target)


def eager_training(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    loss = F.cross_entropy(logits, target, label_smoothing=TRAINING["label_smoothing"])
    return loss + TRAINING["z_loss"] * torch.logsumexp(logits, -1).square().mean()


def liger_kernel() -> Function:
    from liger_kernel.transformers.functional import liger_cross_entropy

    return with_targets(liger_cross_entropy)


def quack() -> Function:
    from quack import cross_entropy

    return with_targets(cross_entropy)


def declare(title: str, eager: Callable, options: dict, **others) -> Benchmark:
    return Benchmark(
        op="cross_entropy",
        title=title,
        function=with_targets(lambda x, target: functional.cross_entropy(x, target, **options)),
        reference=with_targets(lambda x, target: reference.cross_entropy(x, target, **options)),
        eager=with_targets(eager),
        inputs=inputs,
        # Forward reads the logits; backward reads them and writes their gradient.
        elements=lambda rows, dim: (rows * dim, 2 * rows * dim),
        flops=lambda rows, dim: (4 * rows * dim, 4 * rows * dim),
        model_size=lambda model, tokens: (tokens, VOCABULARY),
        sizes=SIZES,
        quick_sizes=((128, 10), HEADLINE),
        headline=HEADLINE,
        **others,
    )


NUMBERS = 4  # for each row, with one store for each


# What belongs to a row is read by each of its threads, with CUDA 8 bytes in forward and 24 in backward beside at most 64 of the
# logits. Triton's have less of them.
def forward_traffic(backend: str, rows: int, dim: int, size: int) -> Traffic:
    loaded, stored = rows * dim * size * (9 if backend == "cuda" else 11) // 8, NUMBERS * rows
    return Traffic(loaded, stored * ACCUMULATOR, stored * (SECTOR - ACCUMULATOR), at_most=True)


def backward_traffic(backend: str, rows: int, dim: int, size: int) -> Traffic:
    return Traffic(rows * dim * size * (11 if backend == "cuda" else 20) // 8, rows * dim * size, at_most=True)


BENCHMARKS = (
    declare(
        "cross_entropy",
        F.cross_entropy,
        {},
        traffic={"cross_entropy_forward": forward_traffic, "cross_entropy_backward": backward_traffic},
        peers={"liger_kernel": liger_kernel, "quack": quack},
    ),
    declare("cross_entropy smoothing z_loss", eager_training, TRAINING, quick=False),
)

MODULES = (
    ModuleBenchmark(
        op="cross_entropy",
        title="CrossEntropyLoss()",
        ours=lambda: OfOneRow(pylayers.CrossEntropyLoss()),
        eager=lambda: OfOneRow(torch.nn.CrossEntropyLoss()),
    ),
)
