import torch

from .dtypes import accumulation_dtype

LOW_WORD = 0xFFFFFFFF


def philox(counter, seed):
    """Four random words a counter by Philox4x32-10, in 64-bit integers; products wrap around."""
    a, b = counter & LOW_WORD, (counter >> 32) & LOW_WORD
    c = d = torch.zeros_like(a)
    for step in range(10):
        p, q = a * 0xD2511F53, c * 0xCD9E8D57
        a = ((q >> 32) & LOW_WORD) ^ b ^ ((seed + step * 0x9E3779B9) & LOW_WORD)
        c = ((p >> 32) & LOW_WORD) ^ d ^ (((seed >> 32) + step * 0xBB67AE85) & LOW_WORD)
        b, d = q & LOW_WORD, p & LOW_WORD
    return a, b, c, d


def draw_seed(generator=None):
    """64 bits of a generator of the CPU."""
    return torch.empty((), dtype=torch.int64).random_(-(2**63), None, generator=generator).item()


@torch.no_grad()
def two_sided_uniform_(tensor, low=5.0, high=10.0, p_zero=0.5, generator=None):
    dtype = accumulation_dtype(tensor.dtype)
    a, b, c, _ = philox(torch.arange(tensor.numel(), device=tensor.device), draw_seed(generator))
    u = (b << 21 | c >> 11).to(dtype) / 2**53 if dtype == torch.float64 else (b >> 8).to(dtype) / 2**24
    number = u * (high - low) + low
    number = torch.where(a % 2 == 1, -number, number).masked_fill(a // 2 < int(p_zero * 2**31 + 0.5), 0)
    return tensor.copy_(number.view(tensor.shape))
