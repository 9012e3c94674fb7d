"""Halving until the sum of the absolute values is at most 1, on data that takes several turns."""

from __future__ import annotations

import torch

import pylayers
from pylayers import functional, reference

from .harness import Benchmark, ModuleBenchmark, random
from .traffic import Traffic, one_number


def inputs(rows: int, dim: int, **kind):
    """A sum of about 40, six turns; subnormal numbers, which processors are slow with, are avoided that way."""
    return (random(rows, dim, **kind) * (50 / (rows * dim)),)


def loop(x: torch.Tensor) -> torch.Tensor:
    while x.abs().sum() > 1:
        x = x / 2
    return x


def forward_traffic(backend: str, rows: int, dim: int, size: int) -> Traffic:
    return Traffic(load=rows * dim * size, store=0) + backward_traffic(backend, rows, dim, size)


def backward_traffic(backend: str, rows: int, dim: int, size: int) -> Traffic:
    # Each thread reads k, with CUDA for 32 bytes and with Triton for 32 numbers.
    warps = rows * dim * (size if backend == "cuda" else 1) // 32 // 32
    return Traffic(load=rows * dim * size, store=rows * dim * size) + one_number(warps)


BENCHMARKS = (
    Benchmark(
        op="halve_until",
        title="halve_until",
        function=functional.halve_until,
        reference=reference.halve_until,
        eager=loop,
        inputs=inputs,
        # k is known when all of x has been read: forward reads it twice and writes y. Backward reads grad and writes dx.
        elements=lambda rows, dim: (3 * rows * dim, 2 * rows * dim),
        flops=lambda rows, dim: (3 * rows * dim, rows * dim),
        traffic={"halve_until_forward": forward_traffic, "halve_until_backward": backward_traffic},
        model_size=lambda model, tokens: (tokens, model.dim),
    ),
)


class Loop(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return loop(x)


MODULES = (ModuleBenchmark(op="halve_until", title="HalveUntil()", ours=pylayers.HalveUntil, eager=Loop),)
