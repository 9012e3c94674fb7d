from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .. import functional
from ..init import Initialiser
from .initialised import Initialised
from .lazy import Lazy


class CenteredLayer(nn.Module):
    r"""Subtracts the mean: of the whole tensor, or over one dimension or several neighbouring ones. It has no parameters.

    .. math:: y = x - \mathrm{mean}(x)

    Args:
        dim: the dimension or dimensions that the mean is taken over; None for all, where batch mates influence each other.

    Shape: input, output: :math:`(*)`.

    Dtypes, errors, source, the bound on the mean of the output: see `pylayers.functional.center`.

    Equivalent to:
        >>> input - input.mean()  # dim=None
        >>> input - input.mean(dim, keepdim=True)
    """

    __constants__ = ["dim"]

    def __init__(self, dim: int | Sequence[int] | None = None) -> None:
        super().__init__()
        self.dim = tuple(dim) if isinstance(dim, Sequence) else dim

    def forward(self, input: Tensor) -> Tensor:
        return functional.center(input, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class CenteredAffine(Initialised, nn.Module):
    r"""Removes the mean over a dimension, and learns a scale and an offset for each feature.

    .. math:: y = (x - \mathrm{mean}_\text{dim}(x)) \cdot w + b

    Args:
        num_features: size of the last dimension of the input.
        dim: the dimension that the mean is taken over, by default that of the batch.
        scale: whether there is a weight.
        device, dtype: of the parameters.
        weight_init, bias_init: how they are initialised, see `pylayers.init.resolve`; ones and zeros if None.

    Shape: input, output: :math:`(*, \text{num\_features})`.

    Parameters: `weight` (num_features,), ones at first, and `bias` (num_features,), zeros at first.

    Dtypes, errors, source: see `pylayers.functional.centered_affine`.

    Equivalent to:
        >>> (input - input.mean(dim, keepdim=True)) * weight + bias
    """

    __constants__ = ["num_features", "dim", "scale"]

    def __init__(
        self,
        num_features: int,
        dim: int = 0,
        scale: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        weight_init: Initialiser | None = None,
        bias_init: Initialiser | None = None,
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.dim = dim
        self.scale = scale
        if scale:
            self.weight = nn.Parameter(torch.empty(num_features, device=device, dtype=dtype))
        else:
            self.register_parameter("weight", None)
        self.bias = nn.Parameter(torch.empty(num_features, device=device, dtype=dtype))
        self.initialise(weight=weight_init, bias=bias_init)

    def reset_parameters(self) -> None:
        """Sets the weight to 1 and the bias to 0, or by the initialisers that were chosen."""
        if self.scale:
            nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)
        self.apply_initialisers()

    def forward(self, input: Tensor) -> Tensor:
        return functional.centered_affine(input, self.weight, self.bias, self.dim)

    def extra_repr(self) -> str:
        return f"{self.num_features}, dim={self.dim}, scale={self.scale}" + self.initialisers_repr()


class LazyCenteredAffine(Lazy, CenteredAffine):
    """`CenteredAffine` that takes num_features from the first input.

    Args:
        dim, scale, device, dtype, weight_init, bias_init: see `CenteredAffine`.

    Source, promises: see `pylayers.modules.lazy`.

    Equivalent to:
        >>> CenteredAffine(input.shape[-1], dim, scale, device, dtype)
    """

    cls_to_become = CenteredAffine

    def __init__(
        self,
        dim: int = 0,
        scale: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        weight_init: Initialiser | None = None,
        bias_init: Initialiser | None = None,
    ) -> None:
        super().__init__(0, dim, scale, device, dtype, weight_init=weight_init, bias_init=bias_init)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"weight": (self.num_features,), "bias": (self.num_features,)}

    def sizes_of_input(self, input: Tensor) -> dict[str, int]:
        return {"num_features": input.shape[-1]}

    def sizes_of_state(self, shapes: Mapping[str, torch.Size]) -> dict[str, int]:
        return {"num_features": shapes["bias"][0]}
