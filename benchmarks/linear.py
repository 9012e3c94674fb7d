"""x · weightᵀ + bias, alone and with an activation behind it."""

from __future__ import annotations

import torch
import torch.nn.functional as F

import pylayers
from pylayers import functional, reference

from .harness import Benchmark, Function, ModuleBenchmark, random

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
