from collections.abc import Sequence

import torch
from torch import Tensor

from .. import functional
from ..init import Initialiser
from .layer_norm import LayerNorm
from .norm import LazyNorm


class AddLayerNorm(LayerNorm):
    r"""Adds to a residual stream and normalises the sum: `y, residual = layer(input, residual)`.

    .. math::
        s = x + r \qquad
        y = \frac{s - \mathrm{mean}(s)}{\sqrt{\mathrm{mean}((s - \mathrm{mean}(s))^2) + \epsilon}} \cdot w + b

    Args:
        normalized_shape: the trailing dimensions that mean and variance are taken over; an int for the last one.
        eps: added to the variance.
        elementwise_affine: whether there is a weight of shape `normalized_shape`, and a bias.
        bias: False leaves the bias out.
        device, dtype: of weight and bias.
        residual_dtype: the dtype of :math:`s`, which is returned beside y: that of input, or float32; if None that of residual.
        weight_init, bias_init: how they are initialised, see `pylayers.init.resolve`; ones and zeros if None.

    The state_dict is that of `LayerNorm`.

    Shape: input, residual, both outputs: :math:`(*, \text{normalized\_shape})`.

    Dtypes, errors, source: see `pylayers.functional.add_layer_norm`.

    Equivalent to:
        >>> s = input + residual
        >>> pylayers.LayerNorm(normalized_shape, eps, elementwise_affine, bias, device, dtype)(s), s
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        residual_dtype: torch.dtype | None = None,
        weight_init: Initialiser | None = None,
        bias_init: Initialiser | None = None,
    ) -> None:
        chosen = {"weight_init": weight_init, "bias_init": bias_init}
        super().__init__(normalized_shape, eps, elementwise_affine, bias, device, dtype, **chosen)
        self.residual_dtype = residual_dtype

    def forward(self, input: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        return functional.add_layer_norm(
            input, residual, self.normalized_shape, self.weight, self.bias, self.eps, residual_dtype=self.residual_dtype
        )

    def extra_repr(self) -> str:
        return super().extra_repr() + (f", residual_dtype={self.residual_dtype}" if self.residual_dtype else "")


class LazyAddLayerNorm(LazyNorm, AddLayerNorm):
    """`AddLayerNorm` over the last dimension, whose size it takes from the first input.

    Args:
        eps, elementwise_affine, bias, device, dtype, residual_dtype, weight_init, bias_init: see `AddLayerNorm`.

    Source, promises: see `pylayers.modules.lazy`.

    Equivalent to:
        >>> AddLayerNorm(input.shape[-1], eps, elementwise_affine, bias, device, dtype)
    """

    cls_to_become = AddLayerNorm

    def __init__(
        self,
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        residual_dtype: torch.dtype | None = None,
        weight_init: Initialiser | None = None,
        bias_init: Initialiser | None = None,
    ) -> None:
        chosen = {"residual_dtype": residual_dtype, "weight_init": weight_init, "bias_init": bias_init}
        super().__init__(0, eps, elementwise_affine, bias, device, dtype, **chosen)
