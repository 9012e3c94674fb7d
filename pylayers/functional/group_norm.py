from torch import Tensor

from ..door import door

_group_norm = door("group_norm")


def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    activation: str | None = None,
) -> Tensor:
    r"""Group normalisation: over all positions of neighbouring channels, with an activation behind it.

    .. math:: y = \mathrm{activation}\left(\frac{x - \mathrm{mean}(x)}{\sqrt{\mathrm{mean}((x - \mathrm{mean}(x))^2) + \epsilon}}
        \cdot w + b\right)

    Mean and variance are those of a group: the :math:`C / \text{num\_groups}` neighbouring channels of one input, at all
    positions. The backward keeps input, weight, bias and two numbers a group, and computes the activation again.

    A channels_last or channels_last_3d input is taken as it lies in memory, and the output and the gradient of the input lie as
    it does. Views whose inputs are further apart than they are long, such as some of the channels, need no copy.

    Args:
        input: batch, channels, and any number of further dimensions, also none.
        num_groups: divides the channels.
        weight: scale of each channel; 1 if left out.
        bias: shift of each channel; 0 if left out.
        eps: added to the variance.
        activation: None, or "silu".

    Shape: input, output: :math:`(N, C, *)`; weight, bias: :math:`(C)`.

    Dtypes: float64, float32, float16, bfloat16, the same for input, weight and bias. Statistics are computed in float32 (float64
    for float64).

    Raises:
        TypeError: input is not floating point, or weight or bias has another dtype.
        ValueError: shapes that do not fit, a single input whose groups have one value each, or an unknown activation.
        RuntimeError: weight or bias is on another device, or the chosen backend cannot serve the device.

    Source: Wu and He, Group Normalization, 2018.

    Equivalent to:
        >>> y = torch.nn.functional.group_norm(input, num_groups, weight, bias, eps)
        >>> torch.nn.functional.silu(y) if activation == "silu" else y
    """
    return _group_norm(input, num_groups, weight, bias, eps, activation)
