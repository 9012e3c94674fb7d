from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .. import functional
from ..init import Initialiser
from ..reference.linear import ACTIVATIONS
from .initialised import Initialised
from .lazy import Lazy


class Linear(Initialised, nn.Module):
    r"""Affine map with a fused activation, with the state_dict and the initial values of `torch.nn.Linear`.

    .. math:: y = \mathrm{activation}(x W^\top + b)

    Args:
        in_features, out_features: sizes of the last dimension of input and output.
        bias: whether there is a bias.
        device, dtype: of the parameters.
        activation: None, "relu", "gelu", "gelu_tanh", "silu", "tanh" or "sigmoid".
        weight_init, bias_init: how they are initialised, see `pylayers.init.resolve`; uniform in ±1/√in_features if None.

    Shape: input :math:`(*, \text{in\_features})`, output :math:`(*, \text{out\_features})`.

    Dtypes, errors: see `pylayers.functional.linear`.

    Equivalent to:
        >>> torch.nn.Sequential(torch.nn.Linear(in_features, out_features, bias), torch.nn.ReLU())  # activation="relu"
    """

    __constants__ = ["in_features", "out_features", "activation"]

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str | None = None,
        weight_init: Initialiser | None = None,
        bias_init: Initialiser | None = None,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"Linear: activation must be one of {', '.join(map(repr, ACTIVATIONS))}, got {activation!r}")
        self.in_features = in_features
        self.out_features = out_features
        self.activation = activation
        self.weight = nn.Parameter(torch.empty((out_features, in_features), device=device, dtype=dtype))
        if bias:
            self.bias = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.initialise(weight=weight_init, bias=bias_init)

    def reset_parameters(self) -> None:
        """Draws as torch.nn.Linear does, then by the initialisers that were chosen."""
        nn.Linear.reset_parameters(self)
        self.apply_initialisers()

    def forward(self, input: Tensor) -> Tensor:
        return functional.linear(input, self.weight, self.bias, activation=self.activation)

    def extra_repr(self) -> str:
        text = f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        return text + (f", activation={self.activation!r}" if self.activation else "") + self.initialisers_repr()


class LazyLinear(Lazy, Linear):
    """`Linear` that takes in_features from the first input, with the state_dict and the initial values of `torch.nn.LazyLinear`.

    Args:
        out_features, bias, device, dtype, activation, weight_init, bias_init: see `Linear`.

    Source, promises: see `pylayers.modules.lazy`.

    Equivalent to:
        >>> torch.nn.Sequential(torch.nn.LazyLinear(out_features, bias), torch.nn.ReLU())  # activation="relu"
    """

    cls_to_become = Linear

    def __init__(
        self,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str | None = None,
        weight_init: Initialiser | None = None,
        bias_init: Initialiser | None = None,
    ) -> None:
        chosen = dict(activation=activation, weight_init=weight_init, bias_init=bias_init)
        super().__init__(0, out_features, bias, device, dtype, **chosen)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"weight": (self.out_features, self.in_features), "bias": (self.out_features,)}

    def sizes_of_input(self, input: Tensor) -> dict[str, int]:
        return {"in_features": input.shape[-1]}

    def sizes_of_state(self, shapes: Mapping[str, torch.Size]) -> dict[str, int]:
        return {"in_features": shapes["weight"][-1]}
