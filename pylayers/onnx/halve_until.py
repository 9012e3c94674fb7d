"""ONNX has no frexp. The halvings are counted: as many as there are j ≥ 0 with Σ|x| > threshold · 2^j, which floats compare exactly."""

import math

import torch


def halve_until_forward(op, input, threshold):
    acc = op.acc(input)
    double = acc.name == "DOUBLE"
    kind, least, shift, most = (torch.float64, 2.0**-1074, 512, 1022) if double else (torch.float32, 2.0**-149, 64, 126)
    limit = min(max(torch.tensor(threshold, dtype=kind).item(), least), torch.finfo(kind).max)
    largest = 1024 if double else 128  # exponents
    x = op.widen(input)
    size = op.Abs(x)
    total = op.ReduceSum(size, keepdims=0)
    scaled = op.ReduceSum(op.Mul(size, op.number(2.0**-shift, acc)), keepdims=0)  # for where the other one overflows
    k = op.Where(_finite(op, total), _halvings(op, total, limit, 0, largest, acc), _halvings(op, scaled, limit, shift, largest, acc))
    k = op.Where(_finite(op, scaled), k, op.ints(0))
    # Three factors, none of which underflows; only the last product may be subnormal, and is rounded once.
    powers, y = op.number([2.0**-exponent for exponent in range(most + 1)], acc), x
    for index in (2, 1, 0):
        some = op.Min(op.Max(op.Sub(k, op.ints(index * most)), op.ints(0)), op.ints(most))
        y = op.Mul(y, op.Gather(powers, op.Squeeze(some)))
    return op.narrow(y, input), op.Cast(op.Squeeze(k), to=acc)


def _finite(op, number):
    return op.Not(op.Or(op.IsNaN(number), op.IsInf(number)))


def _halvings(op, total, limit, shift, largest, acc):
    """[1]: how many j ≥ 0 there are with total · 2^shift > limit · 2^j. Behind the last step both sides would overflow."""
    count = largest - math.frexp(limit)[1] + shift + 1
    steps = [math.ldexp(limit, j - shift) for j in range(count)]
    return op.ReduceSum(op.Cast(op.Greater(total, op.number(steps, acc)), to=7), keepdims=1)
