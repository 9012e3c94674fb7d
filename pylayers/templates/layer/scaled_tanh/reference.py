"""The definition, in plain PyTorch."""

from pylayers.reference.dtypes import accumulation_dtype


def scaled_tanh(input, weight, bias):
    dtype = accumulation_dtype(input.dtype)  # float32, or float64 for float64
    return (weight.to(dtype) * input.to(dtype).tanh() + bias.to(dtype)).to(input.dtype)
