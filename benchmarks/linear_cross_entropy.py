"""The cross entropy of a linear map: its products take most of the time, and its logits most of the memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from pylayers import functional, reference

from . import linear
from .cross_entropy import VOCABULARY
from .harness import Benchmark, Function, random

HEADLINE = (2048, 1024, 32000)
# [rows, inner, classes]
SIZES = {
    "cpu": ((128, 64, 1000), (333, 257, 1001), (64, 256, 8000), HEADLINE, (2048, 1024, 128256)),
    "cuda": ((128, 64, 1000), (333, 257, 1001), HEADLINE, (8192, 2048, 32000), (8192, 4096, 128256)),
}


def inputs(rows: int, inner: int, classes: int, **kind):
    return random(rows, inner, **kind), random(classes, inner, **kind) * inner**-0.5


def with_targets(function: Callable[..., torch.Tensor]) -> Function:
    """Of input and weight alone: the targets are made once for each size, outside what is timed."""
    targets: dict[tuple, torch.Tensor] = {}

    def call(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        key = (len(x), len(weight), x.device)
        if key not in targets:
            targets[key] = torch.arange(len(x), device=x.device) * 7919 % len(weight)
        return function(x, weight, targets[key])

    return call


def eager(x: torch.Tensor, weight: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(F.linear(x, weight), target)


def torch_in_chunks() -> Function:
    options = torch.nn.LinearCrossEntropyOptions()
    return with_targets(lambda x, weight, target: F.linear_cross_entropy(x, weight, target, options=options))


def liger_kernel() -> Function:
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    return with_targets(liger_fused_linear_cross_entropy)


BENCHMARKS = (
    Benchmark(
        op="cross_entropy",
        title="linear_cross_entropy",
        function=with_targets(functional.linear_cross_entropy),
        reference=with_targets(reference.linear_cross_entropy),
        eager=with_targets(eager),
        inputs=inputs,
        elements=lambda rows, inner, classes: linear.elements(rows, inner, classes),
        flops=linear.flops,
        model_size=lambda model, tokens: (tokens, model.dim, VOCABULARY),
        sizes=SIZES,
        quick_sizes=((128, 64, 1000), HEADLINE),
        headline=HEADLINE,
        counted_size=(64, 256, 1024),
        quick=False,
        product=True,
        long_sums=True,
        rivals={"torch in chunks": torch_in_chunks},
        peers={"liger_kernel": liger_kernel},
    ),
)

MODULES = ()
