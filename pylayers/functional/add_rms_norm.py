from collections.abc import Sequence

import torch
from torch import Tensor

from ..door import door

_add_rms_norm = door("add_rms_norm")


def add_rms_norm(
    input: Tensor,
    residual: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
    *,
    offset: float = 0.0,
    residual_dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Adds to a residual stream, and root mean square normalisation of the sum, in one pass.

    .. math::
        s = x + r \qquad y = \frac{s}{\sqrt{\mathrm{mean}(s^2) + \epsilon}} \cdot (\mathrm{offset} + w)

    Args:
        input: :math:`x`, any shape that ends in `normalized_shape`, with any strides.
        residual: :math:`r`, of the shape of input.
        normalized_shape: the trailing dimensions that the mean is taken over.
        weight: scale of shape `normalized_shape`; 1 if left out.
        eps: added to the mean; if None the machine epsilon of the dtype that is computed in (float32; float64 for float64).
        offset: added to the weight; 1.0 is Gemma's form.
        residual_dtype: the dtype of :math:`s`: that of input, or float32; if None that of residual.

    Returns:
        :math:`y` in the dtype of input, and :math:`s`, which is normalised as it was rounded to its dtype.

    Shape: input, residual, both outputs: :math:`(*, \text{normalized\_shape})`.

    Dtypes: float64, float32, float16, bfloat16, the same for input and weight. The residual may be float32 beside 16-bit input: a
    stream that does not lose small additions. Sums and statistics are computed in float32 (float64 for float64).

    Raises:
        TypeError: input is not floating point, or weight, residual or residual_dtype is another dtype than it may be.
        ValueError: shapes that do not fit.
        RuntimeError: residual or weight is on another device, or the chosen backend cannot serve the device.

    Source: the pre-norm residual block of Xiong et al., On Layer Normalization in the Transformer Architecture, 2020, with the norm
    of Zhang and Sennrich, Root Mean Square Layer Normalization, 2019.

    Equivalent to:
        >>> s = input + residual
        >>> torch.nn.functional.rms_norm(s, normalized_shape, offset + weight, eps), s
    """
    return _add_rms_norm(input, residual, normalized_shape, weight, eps, offset, residual_dtype)
