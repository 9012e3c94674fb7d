import math

import torch


def bilinear(input1, input2, weight, bias=None):
    shape, (outputs, in1_features, _) = input1.shape[:-1], weight.shape
    x1, x2 = (x.reshape(math.prod(shape), x.shape[-1]) for x in (input1, input2))
    # One sum after the other, forward and backward: a single one over two dimensions rounds much more.
    projected = torch.bmm(x2.expand(in1_features, *x2.shape), weight.permute(1, 2, 0))
    y = torch.einsum("ibk,bi->bk", projected, x1).reshape(*shape, outputs)
    return y if bias is None else y + bias
