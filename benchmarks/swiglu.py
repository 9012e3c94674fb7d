"""silu(gate) · up, from two tensors and from the two halves of one."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from pylayers import functional, reference

from .harness import Benchmark, Function, random
from .traffic import Traffic

# Forward reads gate and up and writes y; backward reads grad, gate and up and writes dgate and dup.
ELEMENTS = lambda rows, dim: (3 * rows * dim, 5 * rows * dim)
FLOPS = lambda rows, dim: (5 * rows * dim, 10 * rows * dim)
TRAFFIC = {
    "swiglu_forward": lambda backend, rows, dim, size: Traffic(2 * rows * dim * size, rows * dim * size),
    "swiglu_backward": lambda backend, rows, dim, size: Traffic(3 * rows * dim * size, 2 * rows * dim * size),
}


def separate(rows: int, dim: int, **kind):
    return random(rows, dim, **kind), random(rows, dim, **kind)


def packed(rows: int, dim: int, **kind):
    return (random(rows, 2 * dim, **kind),)


def eager(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return F.silu(gate) * up


def eager_packed(input: torch.Tensor) -> torch.Tensor:
    gate, up = input.chunk(2, dim=-1)
    return F.silu(gate) * up


def liger_kernel() -> Function:
    from liger_kernel.ops.swiglu import LigerSiLUMulFunction

    return LigerSiLUMulFunction.apply


def flashinfer() -> Function:
    from flashinfer.activation import silu_and_mul

    return silu_and_mul


BENCHMARKS = (
    Benchmark(
        op="swiglu",
        title="swiglu",
        function=functional.swiglu,
        reference=reference.swiglu,
        eager=eager,
        inputs=separate,
        elements=ELEMENTS,
        flops=FLOPS,
        traffic=TRAFFIC,
        model_size=lambda model, tokens: (tokens, model.hidden),
        peers={"liger_kernel": liger_kernel},
    ),
    Benchmark(
        op="swiglu",
        title="swiglu_packed",
        function=functional.swiglu_packed,
        reference=reference.swiglu_packed,
        eager=eager_packed,
        inputs=packed,
        elements=ELEMENTS,
        flops=FLOPS,
        traffic=TRAFFIC,
        model_size=lambda model, tokens: (tokens, model.hidden),
        quick=False,
        peers={"flashinfer": flashinfer},
    ),
)

MODULES = ()
