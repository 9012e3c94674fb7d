import numbers
from collections.abc import Sequence

from torch import Tensor

from ..door import door

_center = door("center")
_centered_affine = door("centered_affine")


def center(input: Tensor, dim: int | Sequence[int] | None = None) -> Tensor:
    r"""The input minus its mean: of the whole tensor, or over one dimension or several neighbouring ones.

    .. math:: y = x - \mathrm{mean}(x)

    The gradient is centered in the same way. The mean of the output, computed exactly, is at most

    .. math:: u \cdot \mathrm{mean}|y| + 32\,\epsilon \cdot \mathrm{mean}|x|

    where the first term comes from rounding the output, u = 2⁻⁵³ for float64, 2⁻²⁴ for float32, 2⁻¹¹ for float16 and 2⁻⁸ for
    bfloat16, and the second from the sum, ε = 2⁻²⁴ (2⁻⁵³ for float64).

    Args:
        input: any shape, with any strides.
        dim: the dimension or dimensions that the mean is taken over, which must lie next to each other (permute others first);
            None for all, where batch mates influence each other.

    Shape: input, output: :math:`(*)`. Without elements there is nothing to center, and the output is empty as well.

    Dtypes: float64, float32, float16, bfloat16; the mean is taken in float32 (float64 for float64).

    Raises:
        TypeError: input is not floating point.
        ValueError: a dimension that input does not have, twice the same one, or dimensions with others between them.
        RuntimeError: the chosen backend cannot serve the device.

    Source: Zhang, Lipton, Li and Smola, Dive into Deep Learning, 2023, custom layers.

    Equivalent to:
        >>> input - input.mean()  # dim=None
        >>> input - input.mean(dim, keepdim=True)
    """
    return _center(input, (dim,) if isinstance(dim, numbers.Integral) else dim)


def centered_affine(input: Tensor, weight: Tensor | None, bias: Tensor | None, dim: int = 0) -> Tensor:
    r"""Removes the mean over one dimension, then scales and shifts each feature, the last dimension.

    .. math:: y = (x - \mathrm{mean}_\text{dim}(x)) \cdot w + b

    Args:
        input: one dimension at least, with any strides.
        weight: scale of shape (features,); 1 if None.
        bias: offset of shape (features,); 0 if None.
        dim: the dimension that the mean is taken over, by default that of the batch; it may be the last one.

    Shape: input, output: :math:`(*, \text{features})`. Without elements the output is empty and the gradients of weight and bias
    are 0.

    Dtypes: float64, float32, float16, bfloat16, the same for all; computed in float32 (float64 for float64).

    Raises:
        TypeError: input is not floating point, or weight or bias has another dtype.
        ValueError: a dimension that input does not have, or shapes that do not fit.
        RuntimeError: weight or bias is on another device, or the chosen backend cannot serve the device.

    Source: the centering of Ioffe and Szegedy, Batch Normalization, 2015, without the division by the deviation.

    Equivalent to:
        >>> (input - input.mean(dim, keepdim=True)) * weight + bias
    """
    return _centered_affine(input, weight, bias, dim)
