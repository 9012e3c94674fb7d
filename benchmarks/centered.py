"""x − mean: of the whole tensor, of each row, and of each column with a scale and an offset."""

from __future__ import annotations

import torch

import pylayers
from pylayers import functional, reference

from .harness import Benchmark, Function, ModuleBenchmark, random
from .traffic import ACCUMULATOR, Traffic, ceil_div

LEAST_SHARE, MOST_SHARES = 8192, 8 * 132  # of the sum over a whole tensor: csrc/cuda/parts.h


def one(rows: int, dim: int, **kind):
    return (random(rows, dim, **kind),)


def affine(rows: int, dim: int, **kind):
    return random(rows, dim, **kind), random(dim, **kind), random(dim, **kind)


def eager_affine(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return (x - x.mean(0)) * weight + bias


def along_rows(center: Function) -> Function:
    return lambda x: center(x, -1)


def whole_traffic(backend: str, rows: int, dim: int, size: int) -> Traffic:
    # In forward and in backward: shares of the sum, one block that adds them, and a pass in which each thread reads the mean.
    numbers = rows * dim
    shares = max(1, min(numbers // LEAST_SHARE, MOST_SHARES))
    return twice(Traffic(load=2 * numbers * size + shares * ACCUMULATOR, store=numbers * size + shares * ACCUMULATOR))


def rows_traffic(backend: str, rows: int, dim: int, size: int) -> Traffic:
    return twice(Traffic(load=rows * dim * size, store=rows * dim * size))


def columns_forward(backend: str, rows: int, dim: int, size: int) -> Traffic:
    return Traffic(load=rows * dim * size, store=rows * dim * size)


def columns_backward(backend: str, rows: int, dim: int, size: int) -> Traffic:
    return Traffic(load=2 * rows * dim * size, store=rows * dim * size)


def twice(traffic: Traffic) -> Traffic:
    return traffic + traffic


BENCHMARKS = (
    Benchmark(
        op="centered",
        title="center",
        function=functional.center,
        reference=reference.center,
        eager=lambda x: x - x.mean(),
        inputs=one,
        # Forward reads x and writes y; backward does the same with the gradient.
        elements=lambda rows, dim: (2 * rows * dim, 2 * rows * dim),
        flops=lambda rows, dim: (2 * rows * dim, 2 * rows * dim),
        traffic={"centered_forward": whole_traffic},
        model_size=lambda model, tokens: (tokens, model.dim),
    ),
    Benchmark(
        op="centered",
        title="center dim=-1",
        function=along_rows(functional.center),
        reference=along_rows(reference.center),
        eager=lambda x: x - x.mean(-1, keepdim=True),
        inputs=one,
        elements=lambda rows, dim: (2 * rows * dim, 2 * rows * dim),
        flops=lambda rows, dim: (2 * rows * dim, 2 * rows * dim),
        traffic={"centered_forward": rows_traffic},
        model_size=lambda model, tokens: (tokens, model.dim),
        quick=False,
    ),
    Benchmark(
        op="centered",
        title="centered_affine",
        function=functional.centered_affine,
        reference=reference.centered_affine,
        eager=eager_affine,
        inputs=affine,
        # Forward reads x and writes y; backward reads grad and x and writes dx; weight, bias and their gradients are [dim].
        elements=lambda rows, dim: (2 * rows * dim + 2 * dim, 3 * rows * dim + 3 * dim),
        flops=lambda rows, dim: (4 * rows * dim, 6 * rows * dim),
        traffic={"centered_forward": columns_forward, "centered_backward": columns_backward},
        model_size=lambda model, tokens: (tokens, model.dim),
    ),
)


class EagerAffine(torch.nn.Module):
    def __init__(self, features: int):
        super().__init__()
        self.weight, self.bias = torch.nn.Parameter(torch.ones(features)), torch.nn.Parameter(torch.zeros(features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return eager_affine(x, self.weight, self.bias)


class EagerCenter(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.mean()


MODULES = (
    ModuleBenchmark(op="centered", title="CenteredLayer()", ours=pylayers.CenteredLayer, eager=EagerCenter),
    ModuleBenchmark(
        op="centered",
        title="CenteredAffine(64)",
        ours=lambda: pylayers.CenteredAffine(64),
        eager=lambda: EagerAffine(64),
    ),
)
