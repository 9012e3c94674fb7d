import torch

from .dtypes import accumulation_dtype


def halve_until(input, threshold=1.0):
    x = input.to(accumulation_dtype(input.dtype))
    k = _halvings(x.detach().abs(), threshold)
    most = 1022 if x.dtype == torch.float64 else 126  # 2^-most is a normal number
    for some in ((k - 2 * most).clamp(0, most), (k - most).clamp(0, most), k.clamp(0, most)):
        x = x * torch.exp2(-some)
    return x.to(input.dtype)


def _halvings(size, threshold):
    """The smallest k ≥ 0 with size.sum() · 2^-k ≤ threshold, by exponents; what overflows is summed 2^-shift as large."""
    shift = 512 if size.dtype == torch.float64 else 64
    total, scaled = size.sum(), (size * 2.0**-shift).sum()
    limit = torch.nextafter(torch.zeros_like(total), torch.ones_like(total)).clamp(min=threshold)
    found = []
    for one, more in ((total, 0), (scaled, shift)):
        (mantissa, exponent), (least, lowest) = torch.frexp(one), torch.frexp(limit)
        found.append(exponent - lowest + more + (mantissa > least).int())
    k = torch.where(total.isfinite(), found[0], found[1]).to(size.dtype)
    return torch.where(scaled.isfinite() & (total > limit), k, 0)
