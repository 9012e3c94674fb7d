from collections.abc import Sequence

import torch
from torch import Tensor

from .. import reference
from ..door import door

_parallel_linear = door("parallel_linear")


def parallel_linear(
    input: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None] | None = None,
    *,
    activation: str | None = None,
) -> Tensor:
    r"""Several affine maps of one input, their results side by side.

    .. math:: y = \mathrm{activation}([x W_1^\top + b_1, \ldots, x W_n^\top + b_n])

    Large products go straight to their columns of the output; small ones are one product over the weights side by side. The
    backward reads the columns of the gradient where they are and adds the gradient of the input up in one tensor.

    Args:
        input: any number of leading dimensions.
        weights: matrices (out_features, in_features), which may differ in out_features.
        biases: for each weight (out_features) or None; None if there are none at all.
        activation: of all: None, "relu", "gelu" (by the error function), "gelu_tanh", "silu", "tanh" or "sigmoid".

    Shape: input :math:`(*, \text{in\_features})`, output :math:`(*, \sum \text{out\_features})`.

    Dtypes: float64, float32, float16, bfloat16, the same for all; the epilogue computes in float32 (float64 for float64).

    Raises:
        TypeError: not floating point, or mixed dtypes.
        ValueError: no weights, shapes that do not fit, or an unknown activation.
        RuntimeError: several devices, or the chosen backend cannot serve the device.

    Equivalent to:
        >>> torch.cat([torch.nn.functional.linear(input, weight, bias) for weight, bias in zip(weights, biases)], dim=-1)
    """
    if biases is None and isinstance(weights, list | tuple):
        biases = [None] * len(weights)
    if torch.jit.is_tracing():  # a trace has no lists with None in them
        return reference.parallel_linear(input, weights, biases, activation)
    return _parallel_linear(input, weights, biases, activation)
