import torch

from .dtypes import accumulation_dtype


def softmax(input, dim):
    return torch.softmax(input.to(accumulation_dtype(input.dtype)), dim).to(input.dtype)


def log_softmax(input, dim):
    return torch.log_softmax(input.to(accumulation_dtype(input.dtype)), dim).to(input.dtype)


def scaled_masked_softmax(input, mask=None, scale=1.0, causal=False):
    scores = input.to(accumulation_dtype(input.dtype)) * scale
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask.to(scores.dtype)
    if causal:
        queries, keys = scores.shape[-2:]
        later = torch.ones(queries, keys, dtype=torch.bool, device=scores.device).triu(keys - queries + 1)
        scores = scores.masked_fill(later, -torch.inf)
    nothing = (scores == -torch.inf).all(-1, keepdim=True)
    return torch.softmax(scores.masked_fill(nothing, 0), -1).masked_fill(nothing, 0).to(input.dtype)
