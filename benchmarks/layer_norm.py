"""LayerNorm over the last dimension, with the gradients of its weight and bias."""

from __future__ import annotations

import torch
import torch.nn.functional as F

import pylayers
from pylayers import functional, reference

from .harness import Benchmark, Function, ModuleBenchmark, random
from .norms import NormTraffic

EPS = 1e-5


def inputs(rows: int, dim: int, *, dtype: torch.dtype, device: torch.device, generator: torch.Generator):
    kind = {"dtype": dtype, "device": device, "generator": generator}
    return random(rows, dim, **kind), random(dim, **kind), random(dim, **kind)


def over_last(layer_norm: Function) -> Function:
    return lambda x, weight, bias: layer_norm(x, weight.shape, weight, bias, EPS)


def liger_kernel() -> Function:
    from liger_kernel.ops.layer_norm import LigerLayerNormFunction

    return lambda x, weight, bias: LigerLayerNormFunction.apply(x, weight, bias, EPS)


def quack() -> Function:
    from quack import layernorm

    return lambda x, weight, bias: layernorm(x, weight.float(), bias.float(), eps=EPS)


def apex() -> Function:
    from apex.normalization.fused_layer_norm import fused_layer_norm_affine

    return lambda x, weight, bias: fused_layer_norm_affine(x, weight, bias, weight.shape, EPS)


TRAFFIC = NormTraffic(centred=True, adds=False)

BENCHMARKS = (
    Benchmark(
        op="layer_norm",
        title="layer_norm",
        function=over_last(functional.layer_norm),
        reference=over_last(reference.layer_norm),
        eager=over_last(F.layer_norm),
        inputs=inputs,
        # Forward reads x and writes y; backward reads grad and x and writes dx; weight, bias and their gradients are [dim].
        elements=lambda rows, dim: (2 * rows * dim + 2 * dim, 3 * rows * dim + 3 * dim),
        flops=lambda rows, dim: (7 * rows * dim, 12 * rows * dim),
        traffic={"layer_norm_forward": TRAFFIC.forward, "layer_norm_backward": TRAFFIC.backward},
        model_size=lambda model, tokens: (tokens, model.dim),
        peers={"liger_kernel": liger_kernel, "quack": quack, "apex": apex},
    ),
)

MODULES = (
    ModuleBenchmark(
        op="layer_norm",
        title="LayerNorm(64)",
        ours=lambda: pylayers.LayerNorm(64),
        eager=lambda: torch.nn.LayerNorm(64),
    ),
)
