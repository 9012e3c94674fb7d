"""RMSNorm of a residual stream and what is added to it, both returned, with the gradient of its weight."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from pylayers import functional, reference

from .harness import Benchmark, Function, random
from .norms import NormTraffic

EPS = 1e-6


def inputs(rows: int, dim: int, *, dtype: torch.dtype, device: torch.device, generator: torch.Generator):
    kind = {"dtype": dtype, "device": device, "generator": generator}
    return random(rows, dim, **kind), random(rows, dim, **kind), random(dim, **kind)


def over_last(add_rms_norm: Function) -> Function:
    return lambda x, residual, weight: add_rms_norm(x, residual, weight.shape, weight, EPS)


def eager(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    total = x + residual
    return F.rms_norm(total, weight.shape, weight, EPS), total


def liger_kernel() -> Function:
    from liger_kernel.ops.fused_add_rms_norm import LigerFusedAddRMSNormFunction

    # Its default writes the gradient over the incoming one; here the caller still needs that.
    return lambda x, residual, weight: LigerFusedAddRMSNormFunction.apply(x, residual, weight, EPS, 0.0, "llama", False)


TRAFFIC = NormTraffic(centred=False, adds=True)

BENCHMARKS = (
    Benchmark(
        op="add_rms_norm",
        title="add_rms_norm",
        function=over_last(functional.add_rms_norm),
        reference=over_last(reference.add_rms_norm),
        eager=eager,
        inputs=inputs,
        # Forward reads two matrices and writes two; backward reads both gradients and the sum and writes one gradient.
        elements=lambda rows, dim: (4 * rows * dim + dim, 4 * rows * dim + 2 * dim),
        flops=lambda rows, dim: (5 * rows * dim, 10 * rows * dim),
        traffic={"add_rms_norm_forward": TRAFFIC.forward, "add_rms_norm_backward": TRAFFIC.backward},
        model_size=lambda model, tokens: (tokens, model.dim),
        peers={"liger_kernel": liger_kernel},
    ),
)

MODULES = ()
