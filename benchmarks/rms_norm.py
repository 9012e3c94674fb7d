"""RMSNorm over the last dimension, with the gradient of its weight."""

from __future__ import annotations

import torch
import torch.nn.functional as F

import pylayers
from pylayers import functional, reference

from .harness import Benchmark, Function, ModuleBenchmark, random
from .norms import NormTraffic

EPS = 1e-6


def inputs(rows: int, dim: int, *, dtype: torch.dtype, device: torch.device, generator: torch.Generator):
    x = random(rows, dim, dtype=dtype, device=device, generator=generator)
    weight = random(dim, dtype=dtype, device=device, generator=generator)
    return x, weight


def over_last(rms_norm: Function) -> Function:
    return lambda x, weight: rms_norm(x, weight.shape, weight, EPS)


def liger_kernel() -> Function:
    from liger_kernel.ops.rms_norm import LigerRMSNormFunction

    # Its default writes the gradient over the incoming one; here the caller still needs that.
    return lambda x, weight: LigerRMSNormFunction.apply(x, weight, EPS, 0.0, "llama", False)


def quack() -> Function:
    from quack import rmsnorm

    return lambda x, weight: rmsnorm(x, weight, eps=EPS)


def flashinfer() -> Function:
    from flashinfer.norm import rmsnorm

    return lambda x, weight: rmsnorm(x, weight, EPS)


def apex() -> Function:
    from apex.normalization.fused_layer_norm import fused_rms_norm_affine

    return lambda x, weight: fused_rms_norm_affine(x, weight, weight.shape, EPS)


def transformer_engine() -> Function:
    from transformer_engine.pytorch import RMSNorm
    from torch.func import functional_call

    modules: dict[tuple, torch.nn.Module] = {}

    def call(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        key = (weight.shape, weight.dtype)
        if key not in modules:
            modules[key] = RMSNorm(weight.numel(), eps=EPS, dtype=weight.dtype, device=weight.device)
        return functional_call(modules[key], {"weight": weight}, (x,))

    return call


TRAFFIC = NormTraffic(centred=False, adds=False)

BENCHMARKS = (
    Benchmark(
        op="rms_norm",
        title="rms_norm",
        function=over_last(functional.rms_norm),
        reference=over_last(reference.rms_norm),
        eager=over_last(F.rms_norm),
        inputs=inputs,
        # Forward reads x and writes y; backward reads grad and x and writes dx; weight and its gradient are [dim].
        elements=lambda rows, dim: (2 * rows * dim + dim, 3 * rows * dim + 2 * dim),
        flops=lambda rows, dim: (4 * rows * dim, 9 * rows * dim),
        traffic={"rms_norm_forward": TRAFFIC.forward, "rms_norm_backward": TRAFFIC.backward},
        model_size=lambda model, tokens: (tokens, model.dim),
        peers={
            "liger_kernel": liger_kernel,
            "quack": quack,
            "flashinfer": flashinfer,
            "apex": apex,
            "transformer_engine": transformer_engine,
        },
    ),
)

MODULES = (
    ModuleBenchmark(
        op="rms_norm",
        title="RMSNorm(64)",
        ours=lambda: pylayers.RMSNorm(64, eps=EPS),
        eager=lambda: torch.nn.RMSNorm(64, eps=EPS),
    ),
)
