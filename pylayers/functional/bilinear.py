from torch import Tensor

from ..door import door

_bilinear = door("bilinear")


def bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    r"""A bilinear form of two inputs for each output.

    .. math:: y_k = \sum_{ij} x_{1,i} \, W_{kij} \, x_{2,j} + b_k

    Matrix products over blocks: neither the outer products of the inputs nor :math:`x_2 W_k^\top` of all outputs is ever there as a
    whole. Blocks of 16-bit numbers are summed up in float32.

    Args:
        input1, input2: the same number of leading dimensions, at least none, of the same sizes.
        weight: (out_features, in1_features, in2_features).
        bias: (out_features), or None.

    Shape: input1 :math:`(*, \text{in1\_features})`, input2 :math:`(*, \text{in2\_features})`, output
    :math:`(*, \text{out\_features})`.

    Dtypes: float64, float32, float16, bfloat16, the same for all. On a CPU 16-bit numbers are multiplied in float32.

    Raises:
        TypeError: not floating point, or mixed dtypes.
        ValueError: shapes that do not fit.
        RuntimeError: several devices, or the chosen backend cannot serve the device.

    Source: Zhang et al., Dive into Deep Learning, section on custom layers; Socher et al., Reasoning With Neural Tensor Networks for
    Knowledge Base Completion, 2013.

    Equivalent to:
        >>> torch.nn.functional.bilinear(input1, input2, weight, bias)
    """
    return _bilinear(input1, input2, weight, bias)
