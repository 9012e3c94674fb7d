import torch

from .dtypes import accumulation_dtype


def _reduced(loss, input, reduction, dtype):
    if reduction != "none":
        loss = loss.sum() / {"mean": loss.numel(), "sum": 1, "batchmean": input.shape[0] if input.dim() else 1}[reduction]
    return loss.to(dtype)


def _common(input, target, *weights):
    dtype = torch.result_type(input, target)
    acc = accumulation_dtype(dtype)
    return dtype, *(one if one is None else one.to(acc) for one in (input, target, *weights))


def mse_loss(input, target, reduction="mean", weight=None):
    dtype, x, t, w = _common(input, target, weight)
    loss = (x - t).square()
    return _reduced(loss if w is None else loss * w, input, reduction, dtype)


def binary_cross_entropy_with_logits(input, target, weight=None, reduction="mean", pos_weight=None):
    dtype, x, t, w, p = _common(input, target, weight, pos_weight)
    positive = t if p is None else p * t
    zero = torch.zeros((), dtype=x.dtype, device=x.device)
    loss = positive * torch.logaddexp(zero, -x) + (1 - t) * torch.logaddexp(zero, x)
    return _reduced(loss if w is None else loss * w, input, reduction, dtype)


def kl_div(input, target, reduction="mean", log_target=False):
    dtype, x, t = _common(input, target)
    loss = t.exp() * (t - x) if log_target else (torch.xlogy(t, t) - t * x).masked_fill(t == 0, 0)
    return _reduced(loss, input, reduction, dtype)
