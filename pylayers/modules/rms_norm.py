from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .. import functional
from ..init import Initialiser
from .initialised import Initialised
from .norm import LazyNorm, as_shape


class RMSNorm(Initialised, nn.Module):
    r"""Root mean square normalisation, with the arguments, numbers and state_dict of `torch.nn.RMSNorm`.

    .. math:: y = \frac{x}{\sqrt{\mathrm{mean}(x^2) + \epsilon}} \cdot (\mathrm{offset} + w)

    Args:
        normalized_shape: the trailing dimensions that the mean is taken over; an int for the last one.
        eps: added to the mean; if None the machine epsilon of the dtype that is computed in.
        elementwise_affine: whether there is a weight of shape `normalized_shape`.
        device, dtype: of the weight.
        offset: added to the weight. With 1.0 the weight starts at 0 and is stored as Gemma's checkpoints store it.
        weight_init: how the weight is initialised, see `pylayers.init.resolve`; so that offset + weight is 1 if None.

    Shape: input, output: :math:`(*, \text{normalized\_shape})`.

    Dtypes, errors, source: see `pylayers.functional.rms_norm`.

    Equivalent to:
        >>> torch.nn.RMSNorm(normalized_shape, eps, elementwise_affine, device, dtype)  # offset=0.0
    """

    __constants__ = ["normalized_shape", "eps", "elementwise_affine", "offset"]
    normalized_shape: tuple[int, ...]

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        offset: float = 0.0,
        weight_init: Initialiser | None = None,
    ) -> None:
        super().__init__()
        self.normalized_shape = as_shape(normalized_shape)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        self.offset = offset
        if elementwise_affine:
            self.weight = nn.Parameter(torch.empty(self.normalized_shape, device=device, dtype=dtype))
        else:
            self.register_parameter("weight", None)
        self.initialise(weight=weight_init)

    def reset_parameters(self) -> None:
        """Sets the weight so that offset + weight is 1, or by the initialiser that was chosen."""
        if self.elementwise_affine:
            nn.init.constant_(self.weight, 1.0 - self.offset)
        self.apply_initialisers()

    def forward(self, input: Tensor) -> Tensor:
        return functional.rms_norm(input, self.normalized_shape, self.weight, self.eps, offset=self.offset)

    def extra_repr(self) -> str:
        text = f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"
        return text + (f", offset={self.offset}" if self.offset else "") + self.initialisers_repr()


class LazyRMSNorm(LazyNorm, RMSNorm):
    """`RMSNorm` over the last dimension, whose size it takes from the first input.

    Args:
        eps, elementwise_affine, device, dtype, offset, weight_init: see `RMSNorm`.

    Source, promises: see `pylayers.modules.lazy`.

    Equivalent to:
        >>> RMSNorm(input.shape[-1], eps, elementwise_affine, device, dtype)
    """

    cls_to_become = RMSNorm

    def __init__(
        self,
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        offset: float = 0.0,
        weight_init: Initialiser | None = None,
    ) -> None:
        super().__init__(0, eps, elementwise_affine, device, dtype, offset=offset, weight_init=weight_init)
