from .dtypes import accumulation_dtype
from .rms_norm import rms_norm


def add_rms_norm(input, residual, normalized_shape, weight=None, eps=None, offset=0.0, residual_dtype=None):
    dtype = accumulation_dtype(input.dtype)
    total = (input.to(dtype) + residual.to(dtype)).to(residual_dtype or residual.dtype)
    return rms_norm(total.to(dtype), normalized_shape, weight, eps, offset).to(input.dtype), total
