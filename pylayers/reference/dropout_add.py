import torch

from .dtypes import accumulation_dtype
from .two_sided_uniform import philox


def dropout_add(input, residual, p=0.5, training=True, generator=None):
    if not training or p == 0:
        return input + residual
    device = input.device if generator is None else generator.device
    seed = torch.randint(2**63 - 1, (), generator=generator, device=device).to(input.device)
    words = torch.stack(philox(torch.arange((input.numel() + 3) // 4, device=input.device), seed), -1)  # of four elements each
    dropped = words.flatten()[: input.numel()].view(input.shape) // 2 < int(p * 2**31 + 0.5)
    dtype = accumulation_dtype(input.dtype)
    scale = 0.0 if p == 1 else 1 / (1 - p)
    return (residual.to(dtype) + (input.to(dtype) * scale).masked_fill(dropped, 0)).to(input.dtype)
