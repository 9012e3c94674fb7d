from collections.abc import Sequence

from torch import Tensor

from ..door import door

_rms_norm = door("rms_norm")


def rms_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
    *,
    offset: float = 0.0,
) -> Tensor:
    r"""Root mean square normalisation over the last dimensions.

    .. math:: y = \frac{x}{\sqrt{\mathrm{mean}(x^2) + \epsilon}} \cdot (\mathrm{offset} + w)

    Args:
        input: any shape that ends in `normalized_shape`, with any strides.
        normalized_shape: the trailing dimensions that the mean is taken over.
        weight: scale of shape `normalized_shape`; 1 if left out.
        eps: added to the mean; if None the machine epsilon of the dtype that is computed in (float32; float64 for float64).
        offset: added to the weight; 1.0 is Gemma's form, whose weights are stored as differences from 1.

    Shape: input, output: :math:`(*, \text{normalized\_shape})`.

    Dtypes: float64, float32, float16, bfloat16, the same for input and weight. Statistics are computed in float32 (float64 for
    float64).

    Raises:
        TypeError: input is not floating point, or weight has another dtype.
        ValueError: shapes that do not fit.
        RuntimeError: weight is on another device, or the chosen backend cannot serve the device.

    Source: Zhang and Sennrich, Root Mean Square Layer Normalization, 2019.

    Equivalent to:
        >>> torch.nn.functional.rms_norm(input, normalized_shape, offset + weight, eps)
    """
    return _rms_norm(input, normalized_shape, weight, eps, offset)
