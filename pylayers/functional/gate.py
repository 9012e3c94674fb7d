from torch import Tensor

from ..door import door

_swiglu, _swiglu_packed = door("swiglu"), door("swiglu_packed")
_geglu, _geglu_packed = door("geglu"), door("geglu_packed")
_reglu, _reglu_packed = door("reglu"), door("reglu_packed")
_relu_squared = door("relu_squared")


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


def geglu(gate: Tensor, up: Tensor, approximate: str = "none") -> Tensor:
    r"""The gate of a GEGLU feed-forward layer.

    .. math:: y = \mathrm{gelu}(\text{gate}) \cdot \text{up}, \quad \mathrm{gelu}(a) = \frac{a}{2} \left(1 + \mathrm{erf}\frac{a}{\sqrt 2}\right)

    The backward keeps gate and up alone and computes gelu again. Views with unit stride in the last dimension, such as halves of
    one tensor, need no copy.

    Args:
        gate, up: tensors of one shape.
        approximate: "none", or "tanh" for :math:`\mathrm{gelu}(a) = \frac{a}{2} (1 + \tanh(\sqrt{2/\pi}\,(a + 0.044715\,a^3)))`.

    Shape: gate, up, output: :math:`(*)`.

    Dtypes: float64, float32, float16, bfloat16, the same for both; computed in float32 (float64 for float64).

    Raises:
        TypeError: not floating point, or two dtypes.
        ValueError: two shapes, or an unknown `approximate`.
        RuntimeError: two devices, or the chosen backend cannot serve the device.

    Source: Shazeer, GLU Variants Improve Transformer, 2020; Hendrycks and Gimpel, Gaussian Error Linear Units, 2016.

    Equivalent to:
        >>> torch.nn.functional.gelu(gate, approximate=approximate) * up
    """
    return _geglu(gate, up, approximate)


def geglu_packed(input: Tensor, approximate: str = "none") -> Tensor:
    r"""`geglu` of the two halves [gate, up] of the last dimension, which are not copied apart.

    .. math:: y = \mathrm{gelu}(\text{input}_{\ldots, :d}) \cdot \text{input}_{\ldots, d:}

    Args:
        input: its last dimension must be even.
        approximate: "none" or "tanh", see `geglu`.

    Shape: input :math:`(*, 2d)`, output :math:`(*, d)`.

    Dtypes: float64, float32, float16, bfloat16; computed in float32 (float64 for float64).

    Raises:
        TypeError: not floating point.
        ValueError: no last dimension, or an odd one; an unknown `approximate`.
        RuntimeError: the chosen backend cannot serve the device.

    Source: Shazeer, GLU Variants Improve Transformer, 2020.

    Equivalent to:
        >>> gate, up = input.chunk(2, dim=-1)
        >>> torch.nn.functional.gelu(gate, approximate=approximate) * up
    """
    return _geglu_packed(input, approximate)


def reglu(gate: Tensor, up: Tensor) -> Tensor:
    r"""The gate of a ReGLU feed-forward layer.

    .. math:: y = \max(\text{gate}, 0) \cdot \text{up}

    The backward keeps gate and up alone. Views with unit stride in the last dimension, such as halves of one tensor, need no copy.

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
        >>> torch.nn.functional.relu(gate) * up
    """
    return _reglu(gate, up)


def reglu_packed(input: Tensor) -> Tensor:
    r"""`reglu` of the two halves [gate, up] of the last dimension, which are not copied apart.

    .. math:: y = \max(\text{input}_{\ldots, :d}, 0) \cdot \text{input}_{\ldots, d:}

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
        >>> torch.nn.functional.relu(gate) * up
    """
    return _reglu_packed(input)


def relu_squared(input: Tensor) -> Tensor:
    r"""The square of the rectifier: a gate that opens for itself.

    .. math:: y = \max(x, 0)^2

    The backward keeps the input alone.

    Args:
        input: any shape, with any strides.

    Shape: input, output: :math:`(*)`.

    Dtypes: float64, float32, float16, bfloat16; computed in float32 (float64 for float64).

    Raises:
        TypeError: not floating point.
        RuntimeError: the chosen backend cannot serve the device.

    Source: So et al., Primer: Searching for Efficient Transformers for Language Modeling, 2021.

    Equivalent to:
        >>> torch.nn.functional.relu(input).square()
    """
    return _relu_squared(input)
