"""LayerNorm of a residual stream and what is added to it, both returned, with the gradients of its weight and bias."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from pylayers import functional, reference

from .harness import Benchmark, Function, random
from .norms import NormTraffic

EPS = 1e-5


def inputs(rows: int, dim: int, *, dtype: torch.dtype, device: torch.device, generator: torch.Generator):
    kind = {"dtype": dtype, "device": device, "generator": generator}
    return random(rows, dim, **kind), random(rows, dim, **kind), random(dim, **kind), random(dim, **kind)


def over_last(add_layer_norm: Function) -> Function:
    return lambda x, residual, weight, bias: add_layer_norm(x, residual, weight.shape, weight, bias, EPS)


def eager(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    total = x + residual
    return F.layer_norm(total, weight.shape, weight, bias, EPS), total


TRAFFIC = NormTraffic(centred=True, adds=True)

BENCHMARKS = (
    Benchmark(
        op="add_layer_norm",
        title="add_layer_norm",
        function=over_last(functional.add_layer_norm),
        reference=over_last(reference.add_layer_norm),
        eager=eager,
        inputs=inputs,
        # Forward reads two matrices and writes two; backward reads both gradients and the sum and writes one gradient.
        elements=lambda rows, dim: (4 * rows * dim + 2 * dim, 4 * rows * dim + 3 * dim),
        flops=lambda rows, dim: (8 * rows * dim, 13 * rows * dim),
        traffic={"add_layer_norm_forward": TRAFFIC.forward, "add_layer_norm_backward": TRAFFIC.backward},
        model_size=lambda model, tokens: (tokens, model.dim),
    ),
)

MODULES = ()
