import math

import torch
from torch import Tensor

from .. import functional
from ..init import Initialiser
from .lazy import Lazy
from .linear import LazyLinear, Linear


class ScaledLinear(Linear):
    r"""Affine map times a constant, with the state_dict and the initial values of `torch.nn.Linear`.

    .. math:: y = \mathrm{activation}(\mathrm{scale} \cdot (x W^\top + b))

    The scale is a plain number, in `extra_repr` and not in the state_dict. It costs nothing: it goes with the product, or with the
    pass that the activation takes anyway.

    Args:
        in_features, out_features: sizes of the last dimension of input and output.
        scale: any finite number, also a negative one or 0.
        bias: whether there is a bias.
        device, dtype: of the parameters.
        activation: None, "relu", "gelu", "gelu_tanh", "silu", "tanh" or "sigmoid".
        weight_init, bias_init: see `Linear`.

    Shape: input :math:`(*, \text{in\_features})`, output :math:`(*, \text{out\_features})`.

    Dtypes, errors: see `pylayers.functional.linear`.

    Equivalent to:
        >>> scale * torch.nn.Linear(in_features, out_features, bias)(input)
    """

    __constants__ = ["in_features", "out_features", "activation", "scale"]

    def __init__(
        self,
        in_features: int,
        out_features: int,
        scale: float,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str | None = None,
        weight_init: Initialiser | None = None,
        bias_init: Initialiser | None = None,
    ) -> None:
        if not math.isfinite(scale):
            raise ValueError(f"ScaledLinear: scale must be finite, got {scale}")
        chosen = dict(activation=activation, weight_init=weight_init, bias_init=bias_init)
        super().__init__(in_features, out_features, bias, device, dtype, **chosen)
        self.scale = float(scale)

    def forward(self, input: Tensor) -> Tensor:
        return functional.linear(input, self.weight, self.bias, activation=self.activation, scale=self.scale)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, scale={self.scale:g}"


class LazyScaledLinear(LazyLinear, ScaledLinear):
    """`ScaledLinear` that takes in_features from the first input.

    Args:
        out_features, scale, bias, device, dtype, activation, weight_init, bias_init: see `ScaledLinear`.

    Source, promises: see `pylayers.modules.lazy`.

    Equivalent to:
        >>> ScaledLinear(input.shape[-1], out_features, scale, bias, device, dtype)
    """

    cls_to_become = ScaledLinear

    def __init__(
        self,
        out_features: int,
        scale: float,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str | None = None,
        weight_init: Initialiser | None = None,
        bias_init: Initialiser | None = None,
    ) -> None:
        chosen = dict(activation=activation, weight_init=weight_init, bias_init=bias_init)
        Lazy.__init__(self, 0, out_features, scale, bias, device, dtype, **chosen)
