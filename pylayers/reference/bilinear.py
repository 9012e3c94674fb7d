import math

import torch


def bilinear(input1, input2, weight, bias=None):
    shape, outputs = input1.shape[:-1], weight.shape[0]
    x1, x2 = (x.reshape(math.prod(shape), x.shape[-1]) for x in (input1, input2))
    # One sum after the other, forward and backward: a single one over two dimensions rounds much more.
    projected = torch.bmm(x1.expand(outputs, *x1.shape), weight)
    y = torch.einsum("kbj,bj->bk", projected, x2).reshape(*shape, outputs)
    return y if bias is None else y + bias
