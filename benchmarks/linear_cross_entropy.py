"""The cross entropy of a linear map: its products take most of the time, and its logits most of the memory."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F

from pylayers import functional, reference

from . import cross_entropy, linear
from .harness import Benchmark, Function

HEADLINE = (2048, 1024, 32000)
# [rows, inner, classes]
SIZES = {
    "cpu": ((128, 64, 1000), (333, 257, 1001), (64, 256, 8000), HEADLINE, (2048, 1024, 128256)),
    "cuda": ((128, 64, 1000), (333, 257, 1001), HEADLINE, (8192, 2048, 32000), (8192, 4096, 128256)),
}


def inputs(rows: int, inner: int, classes: int, **kind):
    return linear.inputs(rows, inner, classes, **kind)[:2]


with_targets = partial(cross_entropy.with_targets, dim=0)  # of input and weight alone


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
        elements=linear.elements,
        flops=linear.flops,
        model_size=lambda model, tokens: (tokens, model.dim, cross_entropy.VOCABULARY),
        sizes=SIZES,
        quick_sizes=((128, 64, 1000), HEADLINE),
        headline=HEADLINE,
        counted_size=(64, 256, 1024),
        quick=False,
        product=True,
        slowest=25.0,  # the vocabularies of today
        long_sums=True,
        rivals={"torch in chunks": torch_in_chunks},
        peers={"liger_kernel": liger_kernel},
    ),
)

MODULES = ()
