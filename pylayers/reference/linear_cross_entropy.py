import torch

from .cross_entropy import cross_entropy
from .dtypes import accumulation_dtype


def linear_cross_entropy(
    input, linear_weight, target, linear_bias=None, weight=None, reduction="mean", ignore_index=-100, label_smoothing=0.0, z_loss=0.0,
    softcap=None, chunk_rows=None, dtype=None,
):  # fmt: skip
    acc = accumulation_dtype(input.dtype)
    bias = None if linear_bias is None else linear_bias.to(acc).flatten()
    logits = torch.nn.functional.linear(input.to(acc), linear_weight.to(acc).flatten(0, -2), bias)
    logits = logits.reshape(*input.shape[:-1], *linear_weight.shape[:-1])
    target = target.to(acc) if target.is_floating_point() else target
    weight = None if weight is None else weight.to(acc)
    dtype = input.dtype if dtype is None else dtype
    return cross_entropy(logits, target, weight, reduction, ignore_index, label_smoothing, z_loss, softcap, dtype)
