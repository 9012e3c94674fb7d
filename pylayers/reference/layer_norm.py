import torch

from .dtypes import accumulation_dtype


def layer_norm(input, normalized_shape, weight=None, bias=None, eps=1e-5):
    x = input.to(accumulation_dtype(input.dtype))
    dims = tuple(range(-len(normalized_shape), 0))
    x = x - x.mean(dims, keepdim=True)
    y = x * torch.rsqrt(x.square().mean(dims, keepdim=True) + eps)
    y = y if weight is None else y * weight.to(x.dtype)
    return (y if bias is None else y + bias.to(x.dtype)).to(input.dtype)
