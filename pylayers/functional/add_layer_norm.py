from collections.abc import Sequence

import torch
from torch import Tensor

from ..door import door

_add_layer_norm = door("add_layer_norm")


def add_layer_norm(
    input: Tensor,
    residual: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    residual_dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Adds to a residual stream, and layer normalisation of the sum, in one pass.

    .. math::
        s = x + r \qquad
        y = \frac{s - \mathrm{mean}(s)}{\sqrt{\mathrm{mean}((s - \mathrm{mean}(s))^2) + \epsilon}} \cdot w + b

    Args:
        input: :math:`x`, any shape that ends in `normalized_shape`, with any strides.
        residual: :math:`r`, of the shape of input.
        normalized_shape: the trailing dimensions that mean and variance are taken over.
        weight: scale of shape `normalized_shape`; 1 if left out.
        bias: shift of shape `normalized_shape`; 0 if left out.
        eps: added to the variance.
        residual_dtype: the dtype of :math:`s`: that of input, or float32; if None that of residual.

    Returns:
        :math:`y` in the dtype of input, and :math:`s`, which is normalised as it was rounded to its dtype.

    Shape: input, residual, both outputs: :math:`(*, \text{normalized\_shape})`.

    Dtypes: float64, float32, float16, bfloat16, the same for input, weight and bias. The residual may be float32 beside 16-bit
    input: a stream that does not lose small additions. Sums and statistics are computed in float32 (float64 for float64).

    Raises:
        TypeError: input is not floating point, or weight, bias, residual or residual_dtype is another dtype than it may be.
        ValueError: shapes that do not fit.
        RuntimeError: residual, weight or bias is on another device, or the chosen backend cannot serve the device.

    Source: the residual block of Vaswani et al., Attention Is All You Need, 2017, with the norm of Ba, Kiros and Hinton, Layer
    Normalization, 2016.

    Equivalent to:
        >>> s = input + residual
        >>> torch.nn.functional.layer_norm(s, normalized_shape, weight, bias, eps), s
    """
    return _add_layer_norm(input, residual, normalized_shape, weight, bias, eps, residual_dtype)
