from torch import Tensor

from ..door import door

_linear = door("linear")


def linear(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | None = None,
    scale: float = 1.0,
) -> Tensor:
    r"""Affine map with a scale and an activation fused into the epilogue.

    .. math:: y = \mathrm{activation}(\mathrm{scale} \cdot (x W^\top + b))

    The scale comes before the activation. Without an activation it goes with the product itself and costs nothing.

    The backward takes the activation's gradient and the bias gradient in one pass. The output may be edited in place afterwards:
    what the backward needs is not lost by it.

    On AMD's processors with AVX-512, whose instructions MKL leaves unused, large products of float32 have a kernel of their own: 1.0 to
    1.4 times as fast as MKL's, with the same bits for any number of threads. PYLAYERS_OWN_PRODUCTS=0 in the environment leaves them to
    MKL, 1 takes the kernel everywhere; torch.set_float32_matmul_precision("medium"), for products in bfloat16, goes before it.

    Args:
        input: any number of leading dimensions.
        weight: (out_features, in_features).
        bias: (out_features), or None.
        activation: None, "relu", "gelu" (by the error function), "gelu_tanh", "silu", "tanh" or "sigmoid".
        scale: any finite number, also a negative one or 0.

    Shape: input :math:`(*, \text{in\_features})`, output :math:`(*, \text{out\_features})`.

    Dtypes: float64, float32, float16, bfloat16, the same for all; the epilogue computes in float32 (float64 for float64).

    Raises:
        TypeError: not floating point, or mixed dtypes.
        ValueError: shapes that do not fit, an unknown activation, or a scale that is not finite.
        RuntimeError: several devices, or the chosen backend cannot serve the device.

    Source: Hendrycks and Gimpel, Gaussian Error Linear Units, 2016, for both forms of gelu.

    Equivalent to:
        >>> torch.nn.functional.relu(scale * torch.nn.functional.linear(input, weight, bias))  # activation="relu"
    """
    return _linear(input, weight, bias, activation, scale)
