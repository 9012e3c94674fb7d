"""Products are taken in the dtype that is stored, in which runtimes have fast ones; what is behind them in float32, as everywhere."""

from .activations import finished


def linear_forward(op, input, weight, bias, scale, activation, save):
    z = op.widen(_product(op, input, weight))
    y = finished(op, z, op.widen(bias), op.acc(input), scale, activation)
    return op.narrow(y, input), op.unused()


def parallel_linear_forward(op, input, weights, biases):
    """One product with all weights."""
    y = _product(op, input, op.Concat(*weights, axis=0))
    if all(bias is None for bias in biases):
        return y
    zeros = [op.zeros(op.Shape(weight, end=1), input.dtype) for weight in weights]
    joined = op.Concat(*(zero if bias is None else bias for bias, zero in zip(biases, zeros, strict=True)), axis=0)
    return _with_bias(op, y, op.typed(joined, input), input)


def bilinear_forward(op, input1, input2, weight, bias):
    return _with_bias(op, _bilinear(op, input1, input2, weight), bias, input1)


def tensor_reduction_forward(op, input, weight, bias, symmetric):
    if not symmetric:
        return _with_bias(op, _bilinear(op, input, input, weight), bias, input)
    dim = input.shape[-1]
    rows, cols = zip(*((i, j) for i in range(dim) for j in range(i, dim)), strict=True)
    row, col = (op.Gather(input, op.ints(*index), axis=-1) for index in (rows, cols))
    return _with_bias(op, _product(op, op.typed(op.Mul(row, col), input), weight), bias, input)


def _product(op, x, weight):
    return op.typed(op.MatMul(x, op.Transpose(weight, perm=[1, 0])), x)


def _with_bias(op, y, bias, like):
    return y if bias is None else op.narrow(op.Add(op.widen(y), op.widen(bias)), like)


def _bilinear(op, x1, x2, weight):
    """One sum after the other: [*, in1] · [in1, out · in2] as [*, out, in2], times [*, in2, 1]."""
    outputs, in1, in2 = weight.shape
    first = op.Reshape(op.Transpose(weight, perm=[1, 0, 2]), op.ints(in1, outputs * in2))
    projected = op.Reshape(op.MatMul(x1, first), op.with_last(x1, outputs, in2))
    return op.typed(op.Squeeze(op.MatMul(projected, op.Unsqueeze(x2, op.ints(-1))), op.ints(-1)), x1)
