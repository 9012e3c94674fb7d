"""Σ_ij W_kij · x_i · x_j with the gradients of input and weight: the weight in full, and as a packed triangle."""

from __future__ import annotations

import torch
import torch.nn.functional as F

import pylayers
from pylayers import functional, reference
from pylayers.reference.tensor_reduction import unpacked

from . import bilinear
from .harness import Benchmark, Function, ModuleBenchmark, random
from .traffic import ACCUMULATOR, SECTOR, Traffic


def full(rows: int, inner: int, dim: int, **kind):
    return random(rows, inner, **kind), random(dim, inner, inner, **kind) / inner


def packed(rows: int, inner: int, dim: int, **kind):
    return random(rows, inner, **kind), random(dim, inner * (inner + 1) // 2, **kind) / inner


def symmetric(tensor_reduction: Function) -> Function:
    return lambda x, weight: tensor_reduction(x, weight, symmetric=True)


def eager(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return F.bilinear(x, x, weight)


def eager_packed(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return F.bilinear(x, x, unpacked(weight))


def elements(rows: int, inner: int, dim: int) -> tuple[int, int]:
    operands = rows * inner + dim * inner * inner + rows * dim
    return operands, 2 * operands


def elements_packed(rows: int, inner: int, dim: int) -> tuple[int, int]:
    operands = rows * inner + dim * inner * (inner + 1) // 2 + rows * dim
    return operands, 2 * operands


def flops_packed(rows: int, inner: int, dim: int) -> tuple[int, int]:
    product = rows * inner * (inner + 1) * dim
    return product, 2 * product


def ragged(inner: int, size: int) -> int:
    """Bytes of the sectors that are touched when each row of a triangle is written by warps, 32 columns each."""
    starts = ((i, i * inner - i * (i - 1) // 2, first) for i in range(inner) for first in range(i // 32 * 32, inner, 32))
    pieces = ((start + max(first, i) - i, start + min(first + 32, inner) - i) for i, start, first in starts)
    return sum(SECTOR * ((end * size - 1) // SECTOR - begin * size // SECTOR + 1) for begin, end in pieces)


def outer_traffic(backend: str, rows: int, inner: int, dim: int, size: int) -> Traffic:
    """Twice, forward and backward. A row begins anywhere: a warp begins at a multiple of 32, of places with CUDA, of columns
    with Triton."""
    triangle = inner * (inner + 1) // 2 * size
    touched = ragged(inner, size) if backend == "triton" else ragged_places(inner, size)
    return Traffic(load=4 * rows * triangle, store=2 * rows * triangle, halves=2 * rows * (touched - triangle), at_most=True)


def ragged_places(inner: int, size: int) -> int:
    """As ragged, for pieces that end where a multiple of 32 places does: only the ends of rows are shared."""
    starts = [i * inner - i * (i - 1) // 2 for i in range(inner + 1)]
    lines = ((end * size - 1) // SECTOR - begin * size // SECTOR + 1 for begin, end in zip(starts, starts[1:]))
    return SECTOR * sum(lines)


def contract_traffic(backend: str, rows: int, inner: int, dim: int, size: int) -> Traffic:
    """The triangle twice, with x as often, and sectors in vain; dx is written, then added to, by one lane of a warp with CUDA."""
    triangle, dx = inner * (inner + 1) // 2 * size, rows * inner * ACCUMULATOR
    alone = rows * inner * (SECTOR - ACCUMULATOR) if backend == "cuda" else 0
    return Traffic(load=5 * rows * triangle, store=2 * dx, halves=alone, at_most=True)


TRAFFIC = {"tensor_reduction_outer": outer_traffic, "tensor_reduction_contract": contract_traffic}

SHARED = dict(
    op="tensor_reduction",
    counted_size=(64, 64, 128),
    model_size=lambda model, tokens: (tokens, 128, 128),
    product_size=bilinear.product_size,
    sizes=bilinear.SIZES,
    quick_sizes=((1, 64, 64), bilinear.HEADLINE),
    headline=bilinear.HEADLINE,
    quick=False,
    product=True,
    long_sums=True,
)

BENCHMARKS = (
    Benchmark(
        title="tensor_reduction",
        function=functional.tensor_reduction,
        reference=reference.tensor_reduction,
        eager=eager,
        inputs=full,
        elements=elements,
        flops=bilinear.flops,
        traffic=bilinear.TRAFFIC,
        **SHARED,
    ),
    Benchmark(
        title="tensor_reduction symmetric",
        function=symmetric(functional.tensor_reduction),
        reference=symmetric(reference.tensor_reduction),
        eager=eager_packed,
        inputs=packed,
        elements=elements_packed,
        flops=flops_packed,
        traffic=TRAFFIC,
        **SHARED,
    ),
)

MODULES = (
    ModuleBenchmark(
        op="tensor_reduction",
        title="TensorReduction(64, 64)",
        ours=lambda: pylayers.TensorReduction(64, 64),
        eager=lambda: OfOneInput(64, 64, 64, bias=False),
    ),
)


class OfOneInput(torch.nn.Bilinear):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input, input)
