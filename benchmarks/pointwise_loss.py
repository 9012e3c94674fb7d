"""Losses of single numbers, their mean over all, with the gradient of the input."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

import pylayers
from pylayers import functional, reference

from .harness import Benchmark, Function, ModuleBenchmark, random
from .traffic import ACCUMULATOR, SECTOR, Traffic


def inputs(rows: int, dim: int, **kind):
    return (random(rows, dim, **kind),)


def log_probabilities(rows: int, dim: int, **kind):
    return (torch.log_softmax(random(rows, dim, **kind), -1),)


# Multiples of 1/64, which every dtype holds.
def numbers(index: torch.Tensor) -> torch.Tensor:
    return (index % 129 - 64) / 64


def answers(index: torch.Tensor) -> torch.Tensor:
    return index % 2


def probabilities(index: torch.Tensor) -> torch.Tensor:
    return index % 16 / 64


def with_targets(function: Callable[..., torch.Tensor], made: Callable[[torch.Tensor], torch.Tensor]) -> Function:
    """Of inputs alone: the targets are made once for each shape and dtype, outside what is timed."""
    targets: dict[tuple, torch.Tensor] = {}

    def call(x: torch.Tensor) -> torch.Tensor:
        key = (x.shape, x.dtype, x.device)
        if key not in targets:
            index = torch.arange(x.numel(), device=x.device) * 7919 % 10007
            targets[key] = made(index).to(x.dtype).view(x.shape)
        return function(x, targets[key])

    return call


def forward_traffic(backend: str, rows: int, dim: int, size: int) -> Traffic:
    """Every block stores one number of a sector, and so does the last sum."""
    partial = max(1, min(rows * dim // 8192, 8 * 132))
    store = partial * ACCUMULATOR + size
    return Traffic(2 * rows * dim * size + partial * ACCUMULATOR, store, (partial + 1) * SECTOR - store)


def backward_traffic(kind: str) -> Callable[..., Traffic]:
    """Every lane asks for the gradient of the sum, which is one number; that of a divergence by its input needs no input."""

    def traffic(backend: str, rows: int, dim: int, size: int) -> Traffic:
        numbers = rows * dim
        unread = numbers if kind == "kl_div" else 0
        return Traffic((2 * numbers - unread + numbers // 8) * size, numbers * size, unread=unread * size, at_most=True)

    return traffic


def benchmark(title: str, made: Callable[[torch.Tensor], torch.Tensor], inputs: Callable = inputs, flops: int = 3) -> Benchmark:
    return Benchmark(
        op="pointwise_loss",
        title=title,
        function=with_targets(getattr(functional, title), made),
        reference=with_targets(getattr(reference, title), made),
        eager=with_targets(getattr(F, title), made),
        inputs=inputs,
        # Forward reads input and target; backward reads what the gradient of the input depends on, and writes that.
        elements=lambda rows, dim: (2 * rows * dim, (2 if title == "kl_div" else 3) * rows * dim),
        flops=lambda rows, dim: (flops * rows * dim, flops * rows * dim),
        traffic={"pointwise_loss_forward": forward_traffic, "pointwise_loss_backward": backward_traffic(title)},
        model_size=lambda model, tokens: (tokens, model.dim),
    )


BENCHMARKS = (
    benchmark("mse_loss", numbers),
    benchmark("binary_cross_entropy_with_logits", answers, flops=12),
    benchmark("kl_div", probabilities, log_probabilities, flops=12),
)


class WithTarget(torch.nn.Module):
    """A loss as a module of its input."""

    def __init__(self, loss: torch.nn.Module):
        super().__init__()
        self.loss = loss

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.loss(x, x.detach())


MODULES = (
    ModuleBenchmark(
        op="pointwise_loss", title="MSELoss()", ours=lambda: WithTarget(pylayers.MSELoss()), eager=lambda: WithTarget(torch.nn.MSELoss()),
    ),
)  # fmt: skip
