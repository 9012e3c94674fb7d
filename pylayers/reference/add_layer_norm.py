from .dtypes import accumulation_dtype
from .layer_norm import layer_norm


def add_layer_norm(input, residual, normalized_shape, weight=None, bias=None, eps=1e-5, residual_dtype=None):
    dtype = accumulation_dtype(input.dtype)
    total = (input.to(dtype) + residual.to(dtype)).to(residual_dtype or residual.dtype)
    return layer_norm(total.to(dtype), normalized_shape, weight, bias, eps).to(input.dtype), total
