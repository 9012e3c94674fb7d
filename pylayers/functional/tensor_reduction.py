from torch import Tensor

from ..door import door

_tensor_reduction = door("tensor_reduction")


def tensor_reduction(input: Tensor, weight: Tensor, bias: Tensor | None = None, *, symmetric: bool = False) -> Tensor:
    r"""A quadratic form of the input for each output.

    .. math:: y_k = \sum_{ij} W_{kij} \, x_i \, x_j + b_k

    Only the symmetric part of :math:`W_k` counts. With `symmetric` the weight holds one number for each pair :math:`i \le j`, and
    everything takes half of the arithmetic and of the memory:

    .. math:: y_k = \sum_{i \le j} P_{k,p(i,j)} \, x_i \, x_j + b_k, \quad p(i, j) = i \, d - \tfrac{i (i - 1)}{2} + j - i

    The input gradient is computed at once, not as the gradients of two inputs that autograd adds.

    Args:
        input: any number of leading dimensions.
        weight: (out_features, d, d), d being the last dimension of input; with `symmetric` (out_features, d · (d + 1) / 2), the
            upper triangle row by row.
        bias: (out_features), or None.
        symmetric: how the weight is stored.

    Shape: input :math:`(*, \text{in\_features})`, output :math:`(*, \text{out\_features})`.

    Dtypes: float64, float32, float16, bfloat16, the same for all. On a CPU 16-bit numbers are multiplied in float32.

    Raises:
        TypeError: not floating point, or mixed dtypes.
        ValueError: shapes that do not fit.
        RuntimeError: several devices, or the chosen backend cannot serve the device.

    Source: Zhang et al., Dive into Deep Learning, section on custom layers, exercise 1.

    Equivalent to:
        >>> torch.nn.functional.bilinear(input, input, weight, bias)  # symmetric=False
    """
    return _tensor_reduction(input, weight, bias, symmetric)
