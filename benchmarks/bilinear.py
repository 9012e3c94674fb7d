"""Σ_ij x1_i · W_kij · x2_j + b_k, with the gradients of both inputs, the weight and the bias."""

from __future__ import annotations

import torch
import torch.nn.functional as F

import pylayers
from pylayers import functional, reference

from .harness import Benchmark, ModuleBenchmark, random

# (rows, features of both inputs, outputs). torch.nn.functional.bilinear takes seconds for forward + backward at the larger
# ones, and minutes for 512 features with as many outputs.
HEADLINE = (1024, 64, 64)
SIZES = {
    "cpu": ((1, 64, 64), (128, 64, 64), HEADLINE, (128, 128, 128), (128, 256, 32), (128, 512, 8), (16, 512, 64), (1024, 256, 1)),
    "cuda": ((1, 64, 64), (128, 64, 64), HEADLINE, (1024, 128, 128), (128, 256, 256), (128, 512, 512), (1024, 512, 512)),
}


def inputs(rows: int, inner: int, dim: int, **kind):
    x1, x2 = random(rows, inner, **kind), random(rows, inner, **kind)
    weight = random(dim, inner, inner, **kind) / inner
    return x1, x2, weight, random(dim, **kind)


def elements(rows: int, inner: int, dim: int) -> tuple[int, int]:
    operands = 2 * rows * inner + dim * inner * inner + rows * dim
    return operands + dim, 2 * operands + 2 * dim


def flops(rows: int, inner: int, dim: int) -> tuple[int, int]:
    product = 2 * rows * inner * inner * dim
    return product, 2 * product


def product_size(rows: int, inner: int, dim: int) -> tuple[int, int, int]:
    """The matrix product of as many operations."""
    return rows, inner * inner, dim


TRAFFIC = {}

BENCHMARKS = (
    Benchmark(
        op="bilinear",
        title="bilinear",
        function=functional.bilinear,
        reference=reference.bilinear,
        eager=F.bilinear,
        inputs=inputs,
        elements=elements,
        flops=flops,
        traffic=TRAFFIC,
        counted_size=(64, 64, 128),
        model_size=lambda model, tokens: (tokens, 128, 128),
        sizes=SIZES,
        quick_sizes=((1, 64, 64), HEADLINE),
        headline=HEADLINE,
        quick=False,
        product=True,
        product_size=product_size,
    ),
)

MODULES = (
    ModuleBenchmark(
        op="bilinear",
        title="Bilinear(64, 64, 64)",
        ours=lambda: pylayers.Bilinear(64, 64, 64),
        eager=lambda: torch.nn.Bilinear(64, 64, 64),
    ),
)
