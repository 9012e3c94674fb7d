import torch
from torch import Tensor, nn

from .. import functional
from .linear import Linear

_GATES = {"silu": functional.swiglu}


class GatedMLP(nn.Module):
    r"""The gated feed-forward layer of LLaMA-style transformers, with the parameter names of their checkpoints.

    .. math:: y = W_\text{down} (\mathrm{silu}(W_\text{gate} x) \cdot W_\text{up} x)

    Args:
        in_features: size of the last dimension of the input.
        hidden_features: size between the projections.
        out_features: size of the last dimension of the output; in_features if None.
        bias: whether the three projections have a bias.
        activation: of the gate, "silu".
        device, dtype: of the parameters.

    Shape: input :math:`(*, \text{in\_features})`, output :math:`(*, \text{out\_features})`.

    Parameters: `gate_proj.weight` and `up_proj.weight` (hidden_features, in_features), `down_proj.weight` (out_features,
    hidden_features).

    Source: Shazeer, GLU Variants Improve Transformer, 2020.

    Equivalent to:
        >>> down_proj(torch.nn.functional.silu(gate_proj(input)) * up_proj(input))
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
    ) -> None:
        super().__init__()
        if activation not in _GATES:
            raise ValueError(f"GatedMLP: activation must be one of {', '.join(map(repr, _GATES))}, got {activation!r}")
        self.activation = activation
        out_features = in_features if out_features is None else out_features
        self.gate_proj = Linear(in_features, hidden_features, bias, device, dtype)
        self.up_proj = Linear(in_features, hidden_features, bias, device, dtype)
        self.down_proj = Linear(hidden_features, out_features, bias, device, dtype)

    def reset_parameters(self) -> None:
        for projection in (self.gate_proj, self.up_proj, self.down_proj):
            projection.reset_parameters()

    def forward(self, input: Tensor) -> Tensor:
        return self.down_proj(_GATES[self.activation](self.gate_proj(input), self.up_proj(input)))

    def extra_repr(self) -> str:
        return f"activation={self.activation!r}"
