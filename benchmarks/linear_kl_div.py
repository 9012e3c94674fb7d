"""A student's divergence from its teacher at the end of a language model, beside what it is without an op: two matrices of logits."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from pylayers import functional, reference

from . import cross_entropy, linear
from .harness import Benchmark, Function

HEADLINE = (2048, 1024, 32000)
# [rows, inner, classes]
SIZES = {
    "cpu": ((128, 64, 1000), HEADLINE),
    "cuda": ((2048, 1024, 32000), (8192, 4096, 128256)),
}


def with_teacher(function: Callable[..., torch.Tensor]) -> Function:
    """Of the student alone. The teacher, as wide as the student, is made once for each size, outside what is timed, of numbers that every
    dtype holds."""
    teachers: dict[tuple, tuple[torch.Tensor, torch.Tensor]] = {}

    def call(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        key = (x.shape, weight.shape, x.dtype, x.device)
        if key not in teachers:
            generator = torch.Generator(x.device).manual_seed(1)
            teachers.clear()  # they are large
            teachers[key] = tuple(
                (torch.randn(one.shape, device=x.device, generator=generator) * scale).bfloat16().to(x.dtype)
                for one, scale in ((x, 1.0), (weight, x.shape[1] ** -0.5))
            )
        return function(x, weight, *teachers[key])

    return call


def eager(x: torch.Tensor, weight: torch.Tensor, teacher: torch.Tensor, teacher_weight: torch.Tensor) -> torch.Tensor:
    student, taught = F.log_softmax(F.linear(x, weight), -1), F.log_softmax(F.linear(teacher, teacher_weight), -1)
    return F.kl_div(student, taught, reduction="batchmean", log_target=True)


def flops(rows: int, inner: int, classes: int) -> tuple[int, int]:
    forward, backward = linear.flops(rows, inner, classes)
    return 2 * forward, backward


BENCHMARKS = (
    Benchmark(
        op="cross_entropy",  # whose gradient it takes, beside the products
        title="linear_kl_div",
        function=with_teacher(functional.linear_kl_div),
        reference=with_teacher(reference.linear_kl_div),
        eager=with_teacher(eager),
        inputs=lambda rows, inner, classes, **kind: linear.inputs(rows, inner, classes, **kind)[:2],
        elements=linear.elements,
        flops=flops,
        model_size=lambda model, tokens: (tokens, model.dim, cross_entropy.VOCABULARY),
        sizes=SIZES,
        quick_sizes=((128, 64, 1000), HEADLINE),
        headline=HEADLINE,
        quick=False,
        product=True,
        long_sums=True,
    ),
)
MODULES = ()
