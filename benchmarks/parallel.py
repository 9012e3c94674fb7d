"""Four linear maps of one input, side by side: the products are those of `linear`, so this is a part of its op."""

from __future__ import annotations

import torch
import torch.nn.functional as F

import pylayers
from pylayers import functional, reference

from . import linear
from .harness import Benchmark, Function, ModuleBenchmark, random

BRANCHES = 4
HEADLINE = (2048, 64, 4096)  # a result of 2048×4096, whose copy by cat takes about as long as the products
SIZES = {
    "cpu": ((1, 64, 256), (1, 4096, 4096), (512, 256, 64), (333, 257, 1001), (512, 256, 1024), (2048, 1024, 4096), HEADLINE),
    "cuda": ((1, 64, 256), (1, 4096, 4096), (512, 256, 64), (333, 257, 1001), (2048, 1024, 4096), (8192, 4096, 14336)),
}


def inputs(rows: int, inner: int, dim: int, **kind):
    """Of uneven widths where dim does not divide."""
    weights, biases = random(dim, inner, **kind) * inner**-0.5, random(dim, **kind)
    branches = (one.clone() for stacked in (weights, biases) for one in stacked.tensor_split(BRANCHES))
    return random(rows, inner, **kind), *branches


def of_lists(function: Function, **kind) -> Function:
    return lambda x, *tensors: function(x, list(tensors[:BRANCHES]), list(tensors[BRANCHES:]), **kind)


def stacked(x: torch.Tensor, weights: list, biases: list, activation: str | None) -> torch.Tensor:
    """The one product that an op may make of it, whose gradient of x is one long sum."""
    return reference.linear(x, torch.cat(weights), torch.cat(biases), activation)


def eager(activation: str | None) -> Function:
    def call(x: torch.Tensor, weights: list, biases: list) -> torch.Tensor:
        outputs = (F.linear(x, weight, bias) for weight, bias in zip(weights, biases))
        return torch.cat([one if activation is None else getattr(F, activation)(one) for one in outputs], -1)

    return of_lists(call)


def declare(activation: str | None) -> Benchmark:
    return Benchmark(
        op="linear",
        title=f"parallel_linear + {activation}" if activation else "parallel_linear",
        function=of_lists(functional.parallel_linear, activation=activation),
        reference=of_lists(stacked, activation=activation),
        eager=eager(activation),
        inputs=inputs,
        elements=linear.elements,
        flops=linear.flops,
        traffic=linear.traffic(saves_product=activation is not None),
        counted_size=(64, 256, 1024),
        model_size=lambda model, tokens: (tokens, model.dim, model.dim),
        sizes=SIZES,
        quick_sizes=((1, 64, 256), HEADLINE),
        headline=HEADLINE,
        quick=False,
        product=True,
    )


BENCHMARKS = tuple(map(declare, (None, "gelu")))


class Joined(torch.nn.ModuleList):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([branch(x) for branch in self], -1)


MODULES = (
    ModuleBenchmark(
        op="linear",
        title="Parallel of 4 × Linear(64, 64)",
        ours=lambda: pylayers.Parallel(*(pylayers.Linear(64, 64) for _ in range(BRANCHES))),
        eager=lambda: Joined(torch.nn.Linear(64, 64) for _ in range(BRANCHES)),
    ),
)
