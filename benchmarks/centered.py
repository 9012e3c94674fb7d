"""x − mean: of the whole tensor, of each row, and of each column with a scale and an offset."""

from __future__ import annotations

import torch

import pylayers
from pylayers import functional, reference

from .harness import Benchmark, Function, ModuleBenchmark, random
from .traffic import ACCUMULATOR, Traffic, one_number

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
    # Forward and backward: shares of the sum, a block that adds them, a pass in which each thread reads the mean, with CUDA
    # for 32 bytes of x and with Triton for 16 numbers.
    numbers = rows * dim
    shares = max(1, min(numbers // LEAST_SHARE, MOST_SHARES))
    matrices = Traffic(load=2 * numbers * size + shares * ACCUMULATOR, store=numbers * size + shares * ACCUMULATOR)
    return twice(matrices + one_number(numbers * size // 32 // 32 if backend == "cuda" else numbers // 16 // 32))


def rows_traffic(backend: str, rows: int, dim: int, size: int) -> Traffic:
    return twice(Traffic(load=rows * dim * size, store=rows * dim * size))


def columns_forward(backend: str, rows: int, dim: int, size: int) -> Traffic:
    # Weight and bias are read once for the rows that a block holds; the mean is saved, by CUDA threads of eight columns in two
    # halves.
    mean = dim * ACCUMULATOR
    halves = mean if backend == "cuda" and size == 2 else 0
    return Traffic(load=(rows + 2) * dim * size, store=rows * dim * size + mean, halves=halves)


def columns_backward(backend: str, rows: int, dim: int, size: int) -> Traffic:
    # Grad, x, weight and mean are read and dx is written; the sums of both parameters go through partial.
    partial = 2 * dim * ACCUMULATOR
    halves = partial if backend == "cuda" and size == 2 else 0
    load = (2 * rows + 1) * dim * size + dim * ACCUMULATOR + partial
    return Traffic(load=load, store=(rows + 2) * dim * size + partial, halves=halves)


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
        # The mean is known when all of x has been read: forward reads it twice and writes y. Backward: the same with the gradient.
        elements=lambda rows, dim: (3 * rows * dim, 3 * rows * dim),
        flops=lambda rows, dim: (2 * rows * dim, 2 * rows * dim),
        traffic={"centered_forward": whole_traffic},
        model_size=lambda model, tokens: (tokens, model.dim),
        quick=False,
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
