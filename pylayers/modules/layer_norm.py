from collections.abc import Sequence

import torch
from torch import Tensor

from .. import functional
from ..init import Initialiser
from .norm import LazyNorm, ScaledAndShifted, as_shape


class LayerNorm(ScaledAndShifted):
    r"""Layer normalisation, with the arguments, numbers and state_dict of `torch.nn.LayerNorm`.

    .. math:: y = \frac{x - \mathrm{mean}(x)}{\sqrt{\mathrm{mean}((x - \mathrm{mean}(x))^2) + \epsilon}} \cdot w + b

    Args:
        normalized_shape: the trailing dimensions that mean and variance are taken over; an int for the last one.
        eps: added to the variance.
        elementwise_affine: whether there is a weight of shape `normalized_shape`, and a bias.
        bias: False leaves the bias out.
        device, dtype: of weight and bias.
        weight_init, bias_init: how they are initialised, see `pylayers.init.resolve`; ones and zeros if None.

    Shape: input, output: :math:`(*, \text{normalized\_shape})`.

    Dtypes, errors, source: see `pylayers.functional.layer_norm`.

    Equivalent to:
        >>> torch.nn.LayerNorm(normalized_shape, eps, elementwise_affine, bias, device, dtype)
    """

    __constants__ = ["normalized_shape", "eps", "elementwise_affine"]
    normalized_shape: tuple[int, ...]

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        weight_init: Initialiser | None = None,
        bias_init: Initialiser | None = None,
    ) -> None:
        super().__init__()
        self.normalized_shape = as_shape(normalized_shape)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        self.register(self.normalized_shape, elementwise_affine, elementwise_affine and bias, device=device, dtype=dtype)
        self.initialise(weight=weight_init, bias=bias_init)

    def forward(self, input: Tensor) -> Tensor:
        return functional.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        affine = f"elementwise_affine={self.elementwise_affine}, bias={self.bias is not None}"
        return f"{self.normalized_shape}, eps={self.eps}, {affine}" + self.initialisers_repr()


class LazyLayerNorm(LazyNorm, LayerNorm):
    """`LayerNorm` over the last dimension, whose size it takes from the first input.

    Args:
        eps, elementwise_affine, bias, device, dtype, weight_init, bias_init: see `LayerNorm`.

    Source, promises: see `pylayers.modules.lazy`.

    Equivalent to:
        >>> LayerNorm(input.shape[-1], eps, elementwise_affine, bias, device, dtype)
    """

    cls_to_become = LayerNorm

    def __init__(
        self,
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        weight_init: Initialiser | None = None,
        bias_init: Initialiser | None = None,
    ) -> None:
        chosen = {"weight_init": weight_init, "bias_init": bias_init}
        super().__init__(0, eps, elementwise_affine, bias, device, dtype, **chosen)
