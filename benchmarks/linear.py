"""x · weightᵀ + bias, alone and with an activation behind it."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

import pylayers
from pylayers import functional, reference

from .harness import Benchmark, Function, ModuleBenchmark, random
from .traffic import Traffic, ceil_div, parts, row_sums

EAGER = {"gelu": F.gelu, "silu": F.silu}

# Small beside the others: a processor without bfloat16 instructions takes a second per GFLOP.
HEADLINE = (512, 256, 1024)
SIZES = {
    "cpu": ((1, 64, 64), (1, 4096, 4096), (333, 257, 1001), HEADLINE),
    "cuda": ((1, 64, 64), (1, 4096, 4096), (333, 257, 1001), HEADLINE, (2048, 4096, 4096), (8192, 4096, 14336)),
}


def inputs(rows: int, inner: int, dim: int, **kind):
    x = random(rows, inner, **kind)
    weight = random(dim, inner, **kind) * inner**-0.5
    bias = random(dim, **kind)
    return x, weight, bias


def with_activation(linear: Function, activation: str | None) -> Function:
    return lambda x, weight, bias: linear(x, weight, bias, activation=activation)


def eager(activation: str | None) -> Function:
    if activation is None:
        return F.linear
    act = EAGER[activation]
    return lambda x, weight, bias: act(F.linear(x, weight, bias))


def elements(rows: int, inner: int, dim: int) -> tuple[int, int]:
    operands = rows * inner + dim * inner + rows * dim
    return operands + dim, 2 * operands + 2 * dim


def flops(rows: int, inner: int, dim: int) -> tuple[int, int]:
    product = 2 * rows * inner * dim
    return product, 2 * product


def tiles(rows: int, dim: int) -> tuple[int, int]:
    """Of Triton's product, down and across: 128 × 128, halved until there are 64 or they are 32 × 32."""
    tall, wide = (min(1 << (n - 1).bit_length(), 128) for n in (rows, dim))
    while max(tall, wide) > 32 and ceil_div(rows, tall) * ceil_div(dim, wide) < 64:
        tall, wide = (tall, wide // 2) if wide >= tall else (tall // 2, wide)
    return ceil_div(rows, tall), ceil_div(dim, wide)


def product_traffic(rows: int, inner: int, dim: int, size: int) -> Traffic:
    # A tile reads its rows of x and of the weight: x is read once for each tile across, the weight for each down.
    down, across = tiles(rows, dim)
    return Traffic(load=(across * rows + down * dim) * inner * size, store=rows * dim * size)


def products_traffic(saves_product: bool) -> Callable[..., Traffic]:
    """Of x · weightᵀ + bias, grad · weight and gradᵀ · x."""

    def traffic(backend: str, rows: int, inner: int, dim: int, size: int) -> Traffic:
        bias = Traffic(load=tiles(rows, dim)[0] * dim * size, store=rows * dim * size * saves_product)
        products = ((rows, inner, dim), (rows, dim, inner), (dim, rows, inner))
        return sum((product_traffic(*one, size) for one in products), bias)

    return traffic


def epilogue_forward_traffic(backend: str, rows: int, inner: int, dim: int, size: int) -> Traffic:
    return Traffic(load=2 * rows * dim * size, store=rows * dim * size)  # with few rows, a thread reads bias for each


def epilogue_backward_traffic(backend: str, rows: int, inner: int, dim: int, size: int) -> Traffic:
    # A part reads the bias once; with CUDA each of the four rows that a block's threads stand in does.
    readers = parts(rows, dim) * (4 if backend == "cuda" else 1)
    matrices = Traffic(load=(2 * rows + readers) * dim * size, store=rows * dim * size)
    return matrices + row_sums(backend, rows, dim, size)


def traffic(saves_product: bool) -> dict[str, Callable[..., Traffic]]:
    return {
        "linear_forward": products_traffic(saves_product),
        "linear_epilogue_forward": epilogue_forward_traffic,
        "linear_epilogue_backward": epilogue_backward_traffic,
    }


def declare(activation: str | None) -> Benchmark:
    return Benchmark(
        op="linear",
        title=f"linear + {activation}" if activation else "linear",
        function=with_activation(functional.linear, activation),
        reference=with_activation(reference.linear, activation),
        eager=eager(activation),
        inputs=inputs,
        elements=elements,
        flops=flops,
        traffic=traffic(saves_product=activation is not None),
        counted_size=(64, 256, 1024),
        model_size=lambda model, tokens: (tokens, model.dim, model.hidden),
        sizes=SIZES,
        quick_sizes=((1, 64, 64), (256, 128, 512)),
        headline=HEADLINE,
        quick=activation == "gelu",
        product=True,
    )


# Smooth ones only: at the kink of relu the gradient of a rounded product has no bound to be checked against.
BENCHMARKS = tuple(map(declare, (None, "gelu", "silu")))

MODULES = (
    ModuleBenchmark(
        op="linear",
        title="Linear(64, 64)",
        ours=lambda: pylayers.Linear(64, 64),
        eager=lambda: torch.nn.Linear(64, 64),
    ),
)
