import torch

from .dtypes import accumulation_dtype


def leading_fourier(input, n_coeff=None, dim=-1, norm="backward", onesided=False):
    samples = input.shape[dim]
    if n_coeff is None:
        n_coeff = samples // 2 + 1 if onesided else (samples + 1) // 2
    return torch.fft.rfft(input.to(accumulation_dtype(input.dtype)), dim=dim, norm=norm).narrow(dim, 0, n_coeff)
