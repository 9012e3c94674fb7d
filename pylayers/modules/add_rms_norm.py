from collections.abc import Sequence

import torch
from torch import Tensor

from .. import functional
from ..init import Initialiser
from .norm import LazyNorm
from .rms_norm import RMSNorm


class AddRMSNorm(RMSNorm):
    r"""Adds to a residual stream and normalises the sum: `y, residual = layer(input, residual)`.

    .. math::
        s = x + r \qquad y = \frac{s}{\sqrt{\mathrm{mean}(s^2) + \epsilon}} \cdot (\mathrm{offset} + w)

    Args:
        normalized_shape: the trailing dimensions that the mean is taken over; an int for the last one.
        eps: added to the mean; if None the machine epsilon of the dtype that is computed in.
        elementwise_affine: whether there is a weight of shape `normalized_shape`.
        device, dtype: of the weight.
        offset: added to the weight. With 1.0 the weight starts at 0 and is stored as Gemma's checkpoints store it.
        residual_dtype: the dtype of :math:`s`, which is returned beside y: that of input, or float32; if None that of residual.
        weight_init: how the weight is initialised, see `pylayers.init.resolve`; so that offset + weight is 1 if None.

    The state_dict is that of `RMSNorm`.

    Shape: input, residual, both outputs: :math:`(*, \text{normalized\_shape})`.

    Dtypes, errors, source: see `pylayers.functional.add_rms_norm`.

    Equivalent to:
        >>> s = input + residual
        >>> pylayers.RMSNorm(normalized_shape, eps, elementwise_affine, device, dtype, offset=offset)(s), s
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        offset: float = 0.0,
        residual_dtype: torch.dtype | None = None,
        weight_init: Initialiser | None = None,
    ) -> None:
        super().__init__(normalized_shape, eps, elementwise_affine, device, dtype, offset=offset, weight_init=weight_init)
        self.residual_dtype = residual_dtype

    def forward(self, input: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        dtype = self.residual_dtype
        return functional.add_rms_norm(
            input, residual, self.normalized_shape, self.weight, self.eps, offset=self.offset, residual_dtype=dtype
        )

    def extra_repr(self) -> str:
        return super().extra_repr() + (f", residual_dtype={self.residual_dtype}" if self.residual_dtype else "")


class LazyAddRMSNorm(LazyNorm, AddRMSNorm):
    """`AddRMSNorm` over the last dimension, whose size it takes from the first input.

    Args:
        eps, elementwise_affine, device, dtype, offset, residual_dtype, weight_init: see `AddRMSNorm`.

    Source, promises: see `pylayers.modules.lazy`.

    Equivalent to:
        >>> AddRMSNorm(input.shape[-1], eps, elementwise_affine, device, dtype)
    """

    cls_to_become = AddRMSNorm

    def __init__(
        self,
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        offset: float = 0.0,
        residual_dtype: torch.dtype | None = None,
        weight_init: Initialiser | None = None,
    ) -> None:
        chosen = {"offset": offset, "residual_dtype": residual_dtype, "weight_init": weight_init}
        super().__init__(0, eps, elementwise_affine, device, dtype, **chosen)
