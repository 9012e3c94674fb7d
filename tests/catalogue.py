"""Every module of the package as an example: with arguments other than the default ones where there are some, and its inputs.

`rows` is the first size of every input. No other size of an example is a number that tests take for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from harness import normal
from torch import Tensor, nn

import pylayers

@dataclass(frozen=True)
class Example:
    """A way to build a layer, and a function of rows that gives the inputs of a call."""

    make: Callable[[], nn.Module]
    inputs: Callable[[int], tuple[Tensor, ...]]


def fixed(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def plain(*size: int) -> Callable[[int], tuple[Tensor, ...]]:
    return lambda rows: (normal(rows, *size),)


def two(*size: int, other: tuple[int, ...] | None = None) -> Callable[[int], tuple[Tensor, ...]]:
    return lambda rows: (normal(rows, *size), normal(rows, *(other or size), seed=1))


def classes(count: int, *size: int, features: int | None = None) -> Callable[[int], tuple[Tensor, ...]]:
    """Features and a class for each row."""
    return lambda rows: (normal(rows, features or count), torch.arange(rows).reshape(-1, *(1 for _ in size)).expand(rows, *size) % count)


def probabilities(rows: int) -> tuple[Tensor, ...]:
    return normal(rows, 3), normal(rows, 3, seed=1).sigmoid()


def heads(rows: int) -> tuple[Tensor, ...]:
    return normal(rows, 6, 2, 10), normal(rows, 6, 1, 10, seed=1)


EXAMPLES = {
    "AddLayerNorm": Example(lambda: pylayers.AddLayerNorm(3, 1e-3, elementwise_affine=False), two(3)),
    "AddRMSNorm": Example(lambda: pylayers.AddRMSNorm(3, 1e-3, residual_dtype=torch.float32, dtype=torch.bfloat16), two(3)),
    "BCEWithLogitsLoss": Example(lambda: pylayers.BCEWithLogitsLoss(fixed(1, 2, 0.5), pos_weight=fixed(0.5, 3, 1)), probabilities),
    "Bilinear": Example(lambda: pylayers.Bilinear(3, 4, 5, bias=False, weight_init=("normal", 0.0, 0.1)), two(3, other=(4,))),
    "CenteredAffine": Example(lambda: pylayers.CenteredAffine(4, dim=1, scale=False), plain(3, 4)),
    "CenteredLayer": Example(lambda: pylayers.CenteredLayer(dim=(0, 1)), plain(3, 4)),
    "CrossEntropyLoss": Example(
        lambda: pylayers.CrossEntropyLoss(fixed(1, 2, 0.5), label_smoothing=0.1, z_loss=1e-4, softcap=30.0), classes(3)
    ),
    "DropoutAdd": Example(lambda: pylayers.DropoutAdd(p=0.25), two(33)),
    "FixedLinear": Example(lambda: pylayers.FixedLinear(3, 4, bias=False, activation="relu"), plain(3)),
    "GatedMLP": Example(lambda: pylayers.GatedMLP(4, 6, 3, bias=True, activation="gelu_tanh"), plain(4)),
    "GroupNorm": Example(
        lambda: pylayers.GroupNorm(2, 4, 1e-3, bias=False, activation="silu", weight_init=("constant", 0.5)), plain(4, 5)
    ),
    "HalveUntil": Example(lambda: pylayers.HalveUntil(threshold=2.0), plain(4)),
    "KLDivLoss": Example(lambda: pylayers.KLDivLoss(reduction="batchmean", log_target=True), two(3)),
    "LayerNorm": Example(lambda: pylayers.LayerNorm((2, 3), 1e-3, bias=False, weight_init=("constant", 0.5)), plain(2, 3)),
    "LazyAddLayerNorm": Example(lambda: pylayers.LazyAddLayerNorm(bias_init="ones"), two(3)),
    "LazyAddRMSNorm": Example(lambda: pylayers.LazyAddRMSNorm(1e-3, offset=1.0, residual_dtype=torch.float32), two(3)),
    "LazyBilinear": Example(lambda: pylayers.LazyBilinear(5, bias=False), two(3, other=(4,))),
    "LazyCenteredAffine": Example(lambda: pylayers.LazyCenteredAffine(scale=False), plain(4)),
    "LazyFixedLinear": Example(lambda: pylayers.LazyFixedLinear(4, bias=False, activation="relu"), plain(3)),
    "LazyGatedMLP": Example(lambda: pylayers.LazyGatedMLP(6, bias=True, activation="relu"), plain(4)),
    "LazyGroupNorm": Example(lambda: pylayers.LazyGroupNorm(2, 1e-3, bias=False, activation="silu"), plain(4, 5)),
    "LazyLayerNorm": Example(lambda: pylayers.LazyLayerNorm(1e-3, bias=False), plain(3)),
    "LazyLinear": Example(lambda: pylayers.LazyLinear(4, activation="silu", weight_init="xavier_uniform"), plain(3)),
    "LazyLinearCrossEntropyLoss": Example(
        lambda: pylayers.LazyLinearCrossEntropyLoss(4, bias=True, reduction="sum", softcap=30.0), classes(4, features=3)
    ),
    "LazyRMSNorm": Example(lambda: pylayers.LazyRMSNorm(1e-3, offset=1.0), plain(3)),
    "LazyScaledLinear": Example(lambda: pylayers.LazyScaledLinear(4, -2.0, weight_init=pylayers.init.two_sided_uniform_), plain(3)),
    "LazyTensorReduction": Example(lambda: pylayers.LazyTensorReduction(4, symmetric=True), plain(3)),
    "LeadingFourier": Example(lambda: pylayers.LeadingFourier(3, dim=1, norm="ortho"), plain(8, 2)),
    "Linear": Example(lambda: pylayers.Linear(3, 4, bias=False, activation="gelu_tanh", dtype=torch.bfloat16), plain(3)),
    "LinearCrossEntropyLoss": Example(
        lambda: pylayers.LinearCrossEntropyLoss(
            3, 4, out_features=(2,), bias=True, weight=fixed(1, 2, 0.5, 3), ignore_index=1, chunk_rows=64
        ),
        classes(4, 2, features=3),
    ),
    "LogSoftmax": Example(lambda: pylayers.LogSoftmax(dim=-1), plain(4)),
    "MSELoss": Example(lambda: pylayers.MSELoss(reduction="sum"), two(3)),
    "Parallel": Example(lambda: pylayers.Parallel(pylayers.Linear(3, 3), nn.Sequential(pylayers.RMSNorm(3)), dim=0), plain(3)),
    "Parallel, of Linear": Example(lambda: pylayers.Parallel(*(pylayers.Linear(3, n, activation="gelu") for n in (4, 5))), plain(3)),
    "RMSNorm": Example(lambda: pylayers.RMSNorm((2, 3), 1e-3, offset=1.0), plain(2, 3)),
    "RotaryEmbedding": Example(
        lambda: pylayers.RotaryEmbedding(8, 64, 500.0, interleaved=True, scaling={"rope_type": "linear", "factor": 2.0}), heads
    ),
    "RotaryEmbedding, dynamic": Example(
        lambda: pylayers.RotaryEmbedding(8, 4, scaling={"rope_type": "dynamic", "factor": 2.0}), heads
    ),
    "RotaryEmbedding, longer": Example(lambda: pylayers.RotaryEmbedding(8, 4, heads_first=True), two(2, 6, 10, other=(1, 6, 10))),
    "ScaledLinear": Example(lambda: pylayers.ScaledLinear(3, 4, 0.5, bias=False, activation="tanh"), plain(3)),
    "Softmax": Example(lambda: pylayers.Softmax(1), plain(4)),
    "TensorReduction": Example(lambda: pylayers.TensorReduction(3, 4, symmetric=True, bias=True, bias_init="zeros"), plain(3)),
}


def public_layers() -> list[str]:
    """Their names: of the modules in pylayers.__all__."""
    found = {name: vars(pylayers).get(name) for name in pylayers.__all__}
    return [name for name, one in found.items() if isinstance(one, type) and issubclass(one, nn.Module)]
