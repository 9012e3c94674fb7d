from torch import Tensor

from ..door import door

_swiglu = door("swiglu")
_swiglu_packed = door("swiglu_packed")


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    r"""The gate of a SwiGLU feed-forward layer.

    .. math:: y = \mathrm{silu}(\text{gate}) \cdot \text{up}, \quad \mathrm{silu}(a) = \frac{a}{1 + e^{-a}}

    The backward keeps gate and up alone and computes silu again. Views with unit stride in the last dimension, such as halves of
    one tensor, need no copy.

    Args:
        gate, up: tensors of one shape.

    Shape: gate, up, output: :math:`(*)`.

    Dtypes: float64, float32, float16, bfloat16, the same for both; computed in float32 (float64 for float64).

    Raises:
        TypeError: not floating point, or two dtypes.
        ValueError: two shapes.
        RuntimeError: two devices, or the chosen backend cannot serve the device.

    Source: Shazeer, GLU Variants Improve Transformer, 2020.

    Equivalent to:
        >>> torch.nn.functional.silu(gate) * up
    """
    return _swiglu(gate, up)


def swiglu_packed(input: Tensor) -> Tensor:
    r"""`swiglu` of the two halves [gate, up] of the last dimension, which are not copied apart.

    .. math:: y = \mathrm{silu}(\text{input}_{\ldots, :d}) \cdot \text{input}_{\ldots, d:}

    Args:
        input: its last dimension must be even.

    Shape: input :math:`(*, 2d)`, output :math:`(*, d)`.

    Dtypes: float64, float32, float16, bfloat16; computed in float32 (float64 for float64).

    Raises:
        TypeError: not floating point.
        ValueError: no last dimension, or an odd one.
        RuntimeError: the chosen backend cannot serve the device.

    Source: Shazeer, GLU Variants Improve Transformer, 2020.

    Equivalent to:
        >>> gate, up = input.chunk(2, dim=-1)
        >>> torch.nn.functional.silu(gate) * up
    """
    return _swiglu_packed(input)
