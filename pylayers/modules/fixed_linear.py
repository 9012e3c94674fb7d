import torch
from torch import Tensor, nn

from .. import functional
from ..reference.linear import ACTIVATIONS
from .lazy import Lazy
from .linear import LazyLinear


class FixedLinear(nn.Module):
    r"""Affine map with constant weights: buffers, which are saved and moved with the module and never trained.

    .. math:: y = \mathrm{activation}(x W^\top + b)

    No gradient of the weights is computed, and no optimizer sees them. The state_dict is that of `torch.nn.Linear`.

    Args:
        in_features, out_features: sizes of the last dimension of input and output.
        bias: whether there is a bias.
        device, dtype: of the buffers.
        activation: None, "relu", "gelu", "gelu_tanh", "silu", "tanh" or "sigmoid".

    Shape: input :math:`(*, \text{in\_features})`, output :math:`(*, \text{out\_features})`.

    Dtypes, errors: see `pylayers.functional.linear`.

    Equivalent to:
        >>> torch.nn.Linear(in_features, out_features, bias).requires_grad_(False)
    """

    __constants__ = ["in_features", "out_features", "activation"]
    weight: Tensor
    bias: Tensor | None

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
            raise ValueError(f"FixedLinear: activation must be one of {', '.join(map(repr, ACTIVATIONS))}, got {activation!r}")
        self.in_features = in_features
        self.out_features = out_features
        self.activation = activation
        self.register_buffer("weight", torch.empty((out_features, in_features), device=device, dtype=dtype))
        self.register_buffer("bias", torch.empty(out_features, device=device, dtype=dtype) if bias else None)
        self.reset_parameters()

    @classmethod
    def from_weights(cls, weight: Tensor, bias: Tensor | None = None, *, activation: str | None = None) -> "FixedLinear":
        """The layer with copies of the given values.

        Args:
            weight: (out_features, in_features).
            bias: (out_features), or None for a layer without.
            activation: as in the constructor.

        Raises:
            TypeError: not a Tensor, or not floating point.
            ValueError: shapes that do not fit.
        """
        for name, one in (("weight", weight), ("bias", bias)):
            if not isinstance(one, Tensor) and not (one is None and name == "bias"):
                raise TypeError(f"FixedLinear.from_weights: {name} must be a Tensor, got {type(one).__name__}")
        if not weight.is_floating_point():
            raise TypeError(f"FixedLinear.from_weights: weight must be floating point, got {weight.dtype}")
        if weight.dim() != 2:
            raise ValueError(f"FixedLinear.from_weights: weight must have shape (out_features, in_features), got {tuple(weight.shape)}")
        if bias is not None and bias.shape != weight.shape[:1]:
            raise ValueError(f"FixedLinear.from_weights: bias must have shape ({len(weight)},), got {tuple(bias.shape)}")
        layer = cls(weight.shape[1], weight.shape[0], bias is not None, "meta", weight.dtype, activation=activation)
        layer.weight = weight.detach().clone(memory_format=torch.contiguous_format)
        layer.bias = None if bias is None else bias.detach().clone(memory_format=torch.contiguous_format)
        return layer

    # Uniform in ±1/√in_features, drawn as torch.nn.Linear draws.
    reset_parameters = nn.Linear.reset_parameters

    def forward(self, input: Tensor) -> Tensor:
        return functional.linear(input, self.weight, self.bias, activation=self.activation)

    def extra_repr(self) -> str:
        text = f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        return text + (f", activation={self.activation!r}" if self.activation else "")


class LazyFixedLinear(Lazy, FixedLinear):
    """`FixedLinear` that takes in_features from the first input.

    Args:
        out_features, bias, device, dtype, activation: see `FixedLinear`.

    Source, promises: see `pylayers.modules.lazy`; they hold for the buffers.

    Equivalent to:
        >>> FixedLinear(input.shape[-1], out_features, bias, device, dtype)
    """

    cls_to_become = FixedLinear
    from_weights = FixedLinear.from_weights  # weights have a shape

    def __init__(
        self,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str | None = None,
    ) -> None:
        super().__init__(0, out_features, bias, device, dtype, activation=activation)

    shapes = LazyLinear.shapes
    sizes_of_input = LazyLinear.sizes_of_input
    sizes_of_state = LazyLinear.sizes_of_state
