from torch import Tensor

from pylayers.door import door

from . import _C, reference

_scaled_tanh = door("scaled_tanh", _C, "scaled_tanh", reference)


def scaled_tanh(input: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    r"""A hyperbolic tangent with a scale and a shift for each place of the last dimension.

    .. math:: y = w \cdot \tanh(x) + b

    Args:
        input: any shape, with any strides.
        weight, bias: as many numbers as the last dimension of input has.

    Shape: input, output: :math:`(*, \text{dim})`; weight, bias: :math:`(\text{dim})`.

    Dtypes: float64, float32, float16, bfloat16, the same for all. Computed in float32 (float64 for float64).

    Raises:
        TypeError: input is not floating point, or weight or bias has another dtype.
        ValueError: shapes that do not fit.
        RuntimeError: weight or bias is on another device, or the chosen backend cannot serve the device.

    Equivalent to:
        >>> weight * torch.tanh(input) + bias
    """
    return _scaled_tanh(input, weight, bias)
