"""Halving until the sum of the absolute values is at most 1, on data that takes several turns."""

from __future__ import annotations

import torch

import pylayers
from pylayers import functional, reference

from .harness import Benchmark, ModuleBenchmark, random
from .traffic import Traffic

ELEMENTS = lambda rows, dim: (2 * rows * dim, 2 * rows * dim)


def inputs(rows: int, dim: int, **kind):
    """A sum of about 40, six turns; subnormal numbers, which processors are slow with, are avoided that way."""
    return (random(rows, dim, **kind) * (50 / (rows * dim)),)


def loop(x: torch.Tensor) -> torch.Tensor:
    while x.abs().sum() > 1:
        x = x / 2
    return x


def forward_traffic(backend: str, rows: int, dim: int, size: int) -> Traffic:
    return Traffic(load=2 * rows * dim * size, store=rows * dim * size)


def backward_traffic(backend: str, rows: int, dim: int, size: int) -> Traffic:
    return Traffic(load=rows * dim * size, store=rows * dim * size)


BENCHMARKS = (
    Benchmark(
        op="halve_until",
        title="halve_until",
        function=functional.halve_until,
        reference=reference.halve_until,
        eager=loop,
        inputs=inputs,
        # The least is to read x and write y; backward does the same with the gradient.
        elements=ELEMENTS,
        flops=lambda rows, dim: (3 * rows * dim, rows * dim),
        traffic={"halve_until_forward": forward_traffic, "halve_until_backward": backward_traffic},
        model_size=lambda model, tokens: (tokens, model.dim),
    ),
)


class Loop(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return loop(x)


MODULES = (ModuleBenchmark(op="halve_until", title="HalveUntil()", ours=pylayers.HalveUntil, eager=Loop),)
