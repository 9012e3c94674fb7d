from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .. import functional
from ..init import Initialiser
from .lazy import Lazy
from .norm import ScaledAndShifted


class GroupNorm(ScaledAndShifted):
    r"""Group normalisation, with the arguments, numbers and state_dict of `torch.nn.GroupNorm`.

    .. math:: y = \mathrm{activation}\left(\frac{x - \mathrm{mean}(x)}{\sqrt{\mathrm{mean}((x - \mathrm{mean}(x))^2) + \epsilon}}
        \cdot w + b\right)

    Args:
        num_groups: divides `num_channels`.
        num_channels: the size of the second dimension of the input.
        eps: added to the variance.
        affine: whether there is a weight of shape `(num_channels,)`, and a bias.
        device, dtype: of weight and bias.
        bias: False leaves the bias out.
        activation: None, or "silu".
        weight_init, bias_init: how they are initialised, see `pylayers.init.resolve`; ones and zeros if None.

    Shape: input, output: :math:`(N, C, *)`.

    Dtypes, errors, source, memory formats: see `pylayers.functional.group_norm`.

    Equivalent to:
        >>> torch.nn.GroupNorm(num_groups, num_channels, eps, affine, device, dtype, bias=bias)
        >>> # with activation="silu" followed by
        >>> torch.nn.SiLU()
    """

    __constants__ = ["num_groups", "num_channels", "eps", "affine"]

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
        activation: str | None = None,
        weight_init: Initialiser | None = None,
        bias_init: Initialiser | None = None,
    ) -> None:
        super().__init__()
        if num_groups < 1 or num_channels % num_groups:
            name, got = type(self).__name__, f"{num_channels} and {num_groups}"
            raise ValueError(f"{name}: num_channels must be divisible by num_groups, which must be positive, got {got}")
        if activation not in (None, "silu"):
            raise ValueError(f"{type(self).__name__}: activation must be None or 'silu', got {activation!r}")
        self.num_groups = num_groups
        self.num_channels = num_channels
        self.eps = eps
        self.affine = affine
        self.activation = activation
        self.register((num_channels,), affine, affine and bias, device=device, dtype=dtype)
        self.initialise(weight=weight_init, bias=bias_init)

    def forward(self, input: Tensor) -> Tensor:
        return functional.group_norm(input, self.num_groups, self.weight, self.bias, self.eps, activation=self.activation)

    def extra_repr(self) -> str:
        text = f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}, bias={self.bias is not None}"
        return text + (f", activation={self.activation!r}" if self.activation else "") + self.initialisers_repr()


class LazyGroupNorm(Lazy, GroupNorm):
    """`GroupNorm` for the channels of the first input.

    Args:
        num_groups, eps, affine, device, dtype, bias, activation, weight_init, bias_init: see `GroupNorm`.

    Source, promises: see `pylayers.modules.lazy`.

    Equivalent to:
        >>> GroupNorm(num_groups, input.shape[1], eps, affine, device, dtype, bias=bias, activation=activation)
    """

    cls_to_become = GroupNorm

    def __init__(
        self,
        num_groups: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
        activation: str | None = None,
        weight_init: Initialiser | None = None,
        bias_init: Initialiser | None = None,
    ) -> None:
        chosen = {"bias": bias, "activation": activation, "weight_init": weight_init, "bias_init": bias_init}
        super().__init__(num_groups, 0, eps, affine, device, dtype, **chosen)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"weight": (self.num_channels,), "bias": (self.num_channels,)}

    def sizes_of_input(self, input: Tensor) -> dict[str, Any]:
        return {"num_channels": self._divided(input.shape[1])}

    def sizes_of_state(self, shapes: Mapping[str, torch.Size]) -> dict[str, Any]:
        return {"num_channels": self._divided(shapes["weight"][0])}

    def _divided(self, num_channels: int) -> int:
        if num_channels % self.num_groups:
            raise ValueError(f"{type(self).__name__}: num_groups ({self.num_groups}) must divide the channels, got {num_channels}")
        return num_channels
