"""Σ_ij W_kij · x_i · x_j with the gradients of input and weight: the weight in full, and as a packed triangle."""

from __future__ import annotations

import torch
import torch.nn.functional as F

import pylayers
from pylayers import functional, reference
from pylayers.reference.tensor_reduction import unpacked

from . import bilinear
from .harness import Benchmark, Function, ModuleBenchmark, random


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
        traffic={},
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
