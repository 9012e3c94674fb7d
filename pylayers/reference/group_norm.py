import torch
import torch.nn.functional as F

from .dtypes import accumulation_dtype


def group_norm(input, num_groups, weight=None, bias=None, eps=1e-5, activation=None):
    x = input.to(accumulation_dtype(input.dtype)).unflatten(1, (num_groups, -1))
    dims = tuple(range(2, x.dim()))
    x = x - x.mean(dims, keepdim=True)
    y = (x * torch.rsqrt(x.square().mean(dims, keepdim=True) + eps)).flatten(1, 2)
    by_channel = (-1,) + (1,) * (input.dim() - 2)
    y = y if weight is None else y * weight.to(y.dtype).view(by_channel)
    y = y if bias is None else y + bias.to(y.dtype).view(by_channel)
    return (y if activation is None else F.silu(y)).to(input.dtype)
