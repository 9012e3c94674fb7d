"""Dropout of a tenth, added to a residual stream."""

from __future__ import annotations

import torch
import torch.nn.functional as F

import pylayers
from pylayers import functional, reference

from .harness import Benchmark, Function, ModuleBenchmark, random
from .traffic import Traffic

P = 0.1


def inputs(rows: int, dim: int, **kind):
    return random(rows, dim, **kind), random(rows, dim, **kind)


def ours(input: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    return functional.dropout_add(input, residual, P)


def eager(input: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    return residual + F.dropout(input, P)


def repeated(dropout_add: Function) -> Function:
    """With the same mask in every call."""
    return lambda input, residual: dropout_add(input, residual, P, generator=torch.Generator().manual_seed(7))


BENCHMARKS = (
    Benchmark(
        op="dropout_add",
        title="dropout_add",
        function=ours,
        checked=repeated(functional.dropout_add),
        reference=repeated(reference.dropout_add),
        eager=eager,
        inputs=inputs,
        # Forward reads both and writes y; backward reads grad and writes the gradient of input: that of residual is grad.
        elements=lambda rows, dim: (3 * rows * dim, 2 * rows * dim),
        flops=lambda rows, dim: (2 * rows * dim, rows * dim),
        traffic={
            "dropout_add_forward": lambda backend, rows, dim, size: Traffic(2 * rows * dim * size, rows * dim * size),
            "dropout_add_backward": lambda backend, rows, dim, size: Traffic(rows * dim * size, rows * dim * size),
        },
        model_size=lambda model, tokens: (tokens, model.dim),
    ),
)


class Eager(torch.nn.Module):
    def forward(self, input: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        return eager(input, residual)


MODULES = (
    ModuleBenchmark(op="dropout_add", title=f"DropoutAdd({P})", ours=lambda: pylayers.DropoutAdd(P), eager=Eager, inputs=2),
)
