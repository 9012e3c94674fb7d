from .dtypes import accumulation_dtype


def center(input, dim=None):
    x = input.to(accumulation_dtype(input.dtype))
    return (x - (x.mean() if dim is None else x.mean(dim, keepdim=True))).to(input.dtype)


def centered_affine(input, weight, bias, dim=0):
    x = input.to(accumulation_dtype(input.dtype))
    y = x - x.mean(dim, keepdim=True)
    y = y if weight is None else y * weight.to(x.dtype)
    return (y if bias is None else y + bias.to(x.dtype)).to(input.dtype)
