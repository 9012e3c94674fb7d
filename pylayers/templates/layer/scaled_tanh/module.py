import torch
from torch import Tensor, nn

from .functional import scaled_tanh


class ScaledTanh(nn.Module):
    r"""A hyperbolic tangent with a trained scale and shift for each place of the last dimension.

    .. math:: y = w \cdot \tanh(x) + b

    Args:
        dim: size of the last dimension.
        device, dtype: of the parameters.

    Shape: input, output: :math:`(*, \text{dim})`.

    Parameters: `weight` (dim), ones at first; `bias` (dim), zeros at first.

    Dtypes, errors: see `scaled_tanh`.
    """

    def __init__(self, dim: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.dim = dim
        self.weight = nn.Parameter(torch.empty(dim, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(dim, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        return scaled_tanh(input, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"{self.dim}"
