from collections.abc import Sequence

from torch import Tensor

from ..door import door

_layer_norm = door("layer_norm")


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    r"""Layer normalisation over the last dimensions.

    .. math:: y = \frac{x - \mathrm{mean}(x)}{\sqrt{\mathrm{mean}((x - \mathrm{mean}(x))^2) + \epsilon}} \cdot w + b

    Args:
        input: any shape that ends in `normalized_shape`, with any strides.
        normalized_shape: the trailing dimensions that mean and variance are taken over.
        weight: scale of shape `normalized_shape`; 1 if left out.
        bias: shift of shape `normalized_shape`; 0 if left out.
        eps: added to the variance.

    Shape: input, output: :math:`(*, \text{normalized\_shape})`.

    Dtypes: float64, float32, float16, bfloat16, the same for input, weight and bias. Statistics are computed in float32 (float64
    for float64).

    Raises:
        TypeError: input is not floating point, or weight or bias has another dtype.
        ValueError: shapes that do not fit.
        RuntimeError: weight or bias is on another device, or the chosen backend cannot serve the device.

    Source: Ba, Kiros and Hinton, Layer Normalization, 2016.

    Equivalent to:
        >>> torch.nn.functional.layer_norm(input, normalized_shape, weight, bias, eps)
    """
    return _layer_norm(input, normalized_shape, weight, bias, eps)
