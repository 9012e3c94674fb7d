from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from .. import functional
from ..init import Initialiser
from .lazy import Lazy
from .linear import LazyLinear, Linear

_GATES = {
    "silu": functional.swiglu,
    "gelu": functional.geglu,
    "gelu_tanh": partial(functional.geglu, approximate="tanh"),
    "relu": functional.reglu,
}


class GatedMLP(nn.Module):
    r"""The gated feed-forward layer of LLaMA-style transformers, with the parameter names of their checkpoints.

    .. math:: y = W_\text{down} (\mathrm{activation}(W_\text{gate} x) \cdot W_\text{up} x)

    Args:
        in_features: size of the last dimension of the input.
        hidden_features: size between the projections.
        out_features: size of the last dimension of the output; in_features if None.
        bias: whether the three projections have a bias.
        activation: of the gate: "silu" (SwiGLU), "gelu", "gelu_tanh" (GEGLU) or "relu" (ReGLU).
        device, dtype: of the parameters.
        weight_init, bias_init: of the three projections, see `pylayers.Linear`.

    Shape: input :math:`(*, \text{in\_features})`, output :math:`(*, \text{out\_features})`.

    Parameters: `gate_proj.weight` and `up_proj.weight` (hidden_features, in_features), `down_proj.weight` (out_features,
    hidden_features).

    Source: Shazeer, GLU Variants Improve Transformer, 2020.

    Equivalent to:
        >>> down_proj(torch.nn.functional.silu(gate_proj(input)) * up_proj(input))  # activation="silu"
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        out_features: int | None = None,
        bias: bool = False,
        activation: str = "silu",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        weight_init: Initialiser | None = None,
        bias_init: Initialiser | None = None,
    ) -> None:
        super().__init__()
        if activation not in _GATES:
            raise ValueError(f"GatedMLP: activation must be one of {', '.join(map(repr, _GATES))}, got {activation!r}")
        self.activation = activation
        out_features = in_features if out_features is None else out_features
        kind = dict(bias=bias, device=device, dtype=dtype, weight_init=weight_init, bias_init=bias_init)
        self.gate_proj = Linear(in_features, hidden_features, **kind)
        self.up_proj = Linear(in_features, hidden_features, **kind)
        self.down_proj = Linear(hidden_features, out_features, **kind)

    def reset_parameters(self) -> None:
        for projection in (self.gate_proj, self.up_proj, self.down_proj):
            projection.reset_parameters()

    def forward(self, input: Tensor) -> Tensor:
        return self.down_proj(_GATES[self.activation](self.gate_proj(input), self.up_proj(input)))

    def extra_repr(self) -> str:
        return f"activation={self.activation!r}"


class LazyOutput(LazyLinear):
    """A projection back to the size of the input: before data, that is unknown too."""

    def sizes_of_state(self, shapes: Mapping[str, torch.Size]) -> dict[str, int]:
        out_features, in_features = shapes["weight"]
        return {"in_features": in_features, "out_features": out_features}


class LazyGatedMLP(Lazy, GatedMLP):
    """`GatedMLP` that takes in_features, and out_features if None, from the first input.

    Args:
        hidden_features, out_features, bias, activation, device, dtype, weight_init, bias_init: see `GatedMLP`.

    Source, promises: see `pylayers.modules.lazy`.

    Equivalent to:
        >>> GatedMLP(input.shape[-1], hidden_features, out_features, bias)
    """

    cls_to_become = GatedMLP

    def __init__(
        self,
        hidden_features: int,
        out_features: int | None = None,
        bias: bool = False,
        activation: str = "silu",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        weight_init: Initialiser | None = None,
        bias_init: Initialiser | None = None,
    ) -> None:
        super().__init__(1, 1, 1, False, activation, "meta")
        kind = dict(bias=bias, device=device, dtype=dtype, weight_init=weight_init, bias_init=bias_init)
        self.gate_proj, self.up_proj = LazyLinear(hidden_features, **kind), LazyLinear(hidden_features, **kind)
        self.down_proj = LazyOutput(0, **kind) if out_features is None else LazyLinear(out_features, **kind)

    reset_parameters = GatedMLP.reset_parameters

    def sizes_of_input(self, input: Tensor) -> dict[str, int]:
        """None of its own: the projections initialise themselves, but the last one does not see the size of the input."""
        size = input.shape[-1]
        if isinstance(self.down_proj, LazyOutput):
            self.down_proj.out_features = size
        return {}
