"""Σ_ij x1_i · W_kij · x2_j + b_k, with the gradients of both inputs, the weight and the bias."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

import pylayers
from pylayers import functional, reference

from .harness import Benchmark, ModuleBenchmark, random
from .traffic import ACCUMULATOR, Traffic

# (rows, features of both inputs, outputs). torch.nn.functional.bilinear takes seconds for forward + backward at the larger
# ones, and minutes for 512 features with as many outputs.
HEADLINE = (1024, 64, 64)
SIZES = {
    "cpu": ((1, 64, 64), (128, 64, 64), HEADLINE, (128, 128, 128), (128, 256, 32), (128, 512, 8), (16, 512, 64), (1024, 256, 1)),
    "cuda": ((1, 64, 64), (128, 64, 64), HEADLINE, (1024, 128, 128), (128, 256, 256), (128, 512, 512), (1024, 512, 512)),
}

THREADS = 256  # of a block


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


def outer_traffic(backend: str, rows: int, inner: int, dim: int, size: int) -> Traffic:
    """Of grad ⊗ x1, or x1 ⊗ x2 where that is less, for the weight gradient; a GPU has it as one block at the sizes that are
    counted."""
    left = min(dim, inner)
    pairs = rows * left * inner * size
    if backend == "triton":  # both factors of a tile of 4096, by each thread that needs them
        return Traffic(load=3 * pairs // 8, store=pairs, at_most=True)
    # A group of threads reads the right factor once, 16 bytes each, and writes up to eight vectors of z with it.
    groups = THREADS // (inner * size // 16)
    groups *= math.ceil(left / (8 * groups))
    return Traffic(load=groups * rows * inner * size + rows * left * size, store=pairs)


def contract_traffic(backend: str, rows: int, inner: int, dim: int, size: int) -> Traffic:
    """Sums over one factor of x2 · weightᵀ, and over both of grad · weight, which is read for each."""
    forward, backward = rows * dim * inner * size, rows * inner * inner * size
    sums, others = rows * (dim + inner) * size, rows * inner * ACCUMULATOR
    if backend == "triton":  # a warp reads its piece of the factor for each tile
        return Traffic(load=9 * (forward + backward) // 8 + 17 * backward // 16, store=sums + others)
    # One factor is read for four vectors; the other once by a block. Four sums are stored at a time, and in 16-bit eight
    # of the others in two halves.
    factors = (forward + backward) // 4 + rows * inner * size
    return Traffic(forward + 2 * backward + factors, sums + others, sums * (8 // size - 1) + others * (size == 2))


TRAFFIC = {"bilinear_outer": outer_traffic, "bilinear_contract": contract_traffic}

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
        long_sums=True,
        product_size=product_size,
    ),
)

MODULES = (
    ModuleBenchmark(
        op="bilinear",
        title="Bilinear(64, 64, 64)",
        ours=lambda: pylayers.Bilinear(64, 64, 64),
        eager=lambda: torch.nn.Bilinear(64, 64, 64),
        inputs=2,
    ),
)
