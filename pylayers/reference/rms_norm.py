import torch

from .dtypes import accumulation_dtype


def rms_norm(input, normalized_shape, weight=None, eps=None, offset=0.0):
    x = input.to(accumulation_dtype(input.dtype))
    dims = tuple(range(-len(normalized_shape), 0))
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    y = x * torch.rsqrt(x.square().mean(dims, keepdim=True) + eps)
    return (y if weight is None else y * (weight.to(x.dtype) + offset)).to(input.dtype)
