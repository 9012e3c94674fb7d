import torch.nn.functional as F

from .dtypes import accumulation_dtype


def _gated(activation, gate, up):
    dtype = accumulation_dtype(gate.dtype)
    return (activation(gate.to(dtype)) * up.to(dtype)).to(gate.dtype)


def swiglu(gate, up):
    return _gated(lambda x: x * x.sigmoid(), gate, up)


def geglu(gate, up, approximate="none"):
    return _gated(lambda x: F.gelu(x, approximate=approximate), gate, up)


def reglu(gate, up):
    return _gated(F.relu, gate, up)


def swiglu_packed(input):
    return swiglu(*input.chunk(2, dim=-1))


def geglu_packed(input, approximate="none"):
    return geglu(*input.chunk(2, dim=-1), approximate)


def reglu_packed(input):
    return reglu(*input.chunk(2, dim=-1))


def relu_squared(input):
    return F.relu(input.to(accumulation_dtype(input.dtype))).square().to(input.dtype)
