from .dtypes import accumulation_dtype


def swiglu(gate, up):
    x = gate.to(accumulation_dtype(gate.dtype))
    return (x * x.sigmoid() * up.to(x.dtype)).to(gate.dtype)


def swiglu_packed(input):
    return swiglu(*input.chunk(2, dim=-1))
