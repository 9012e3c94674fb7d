import torch
from torch import Tensor, nn

from .. import functional
from ..reference.linear import ACTIVATIONS


class Linear(nn.Module):
    r"""Affine map with a fused activation, with the state_dict and the initial values of `torch.nn.Linear`.

    .. math:: y = \mathrm{activation}(x W^\top + b)

    Args:
        in_features, out_features: sizes of the last dimension of input and output.
        bias: whether there is a bias.
        device, dtype: of the parameters.
        activation: None, "relu", "gelu", "gelu_tanh", "silu", "tanh" or "sigmoid".

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
        self.reset_parameters()

    # Uniform in ±1/√in_features, drawn as torch.nn.Linear draws.
    reset_parameters = nn.Linear.reset_parameters

    def forward(self, input: Tensor) -> Tensor:
        return functional.linear(input, self.weight, self.bias, activation=self.activation)

    def extra_repr(self) -> str:
        text = f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        return text + (f", activation={self.activation!r}" if self.activation else "")
