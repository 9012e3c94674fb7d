from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .. import functional
from ..init import Initialiser
from ..reference.tensor_reduction import unpacked
from .bilinear import Bilinear
from .initialised import Initialised
from .lazy import Lazy


class TensorReduction(Initialised, nn.Module):
    r"""A quadratic form of the input for each output.

    .. math:: y_k = \sum_{ij} W_{kij} \, x_i \, x_j + b_k

    With `symmetric` only one number for each pair :math:`i \le j` is stored and learned, the upper triangle row by row: half of the
    parameters and of the arithmetic, and nothing is lost, since only :math:`W_{kij} + W_{kji}` counts.

    Args:
        in_features, out_features: sizes of the last dimension of input and output; in_features must be above 0.
        symmetric: whether the weight is the packed triangle.
        bias: whether there is a bias.
        device, dtype: of the parameters.
        weight_init, bias_init: how they are initialised, see `pylayers.init.resolve`; uniform in ±1/√in_features if None.

    Shape: input :math:`(*, \text{in\_features})`, output :math:`(*, \text{out\_features})`.

    Parameters: `weight` (out_features, in_features, in_features), the layout of `Bilinear(in_features, in_features, out_features)`;
    with `symmetric` (out_features, in_features · (in_features + 1) / 2). `bias` (out_features). All uniform in
    :math:`\pm 1 / \sqrt{\text{in\_features}}`, as in `Bilinear`.

    Dtypes, errors, source: see `pylayers.functional.tensor_reduction`.

    Equivalent to:
        >>> bilinear = torch.nn.Bilinear(in_features, in_features, out_features, bias)
        >>> y = bilinear(input, input)
    """

    __constants__ = ["in_features", "out_features", "symmetric"]

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        symmetric: bool = False,
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        weight_init: Initialiser | None = None,
        bias_init: Initialiser | None = None,
    ) -> None:
        super().__init__()
        if in_features <= 0 and not isinstance(self, Lazy):
            raise ValueError(
                f"TensorReduction: in_features must be above 0, since the initial values are in ±1/√in_features, got {in_features}"
            )
        self.in_features = in_features
        self.out_features = out_features
        self.symmetric = symmetric
        self.weight = nn.Parameter(torch.empty(self._weight_shape(), device=device, dtype=dtype))
        if bias:
            self.bias = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.initialise(weight=weight_init, bias=bias_init)

    def _weight_shape(self) -> tuple[int, ...]:
        packed = self.in_features * (self.in_features + 1) // 2
        return (self.out_features, packed) if self.symmetric else (self.out_features, self.in_features, self.in_features)

    def reset_parameters(self) -> None:
        """Draws uniformly in ±1/√in_features, then by the initialisers that were chosen."""
        bound = 1 / math.sqrt(self.in_features)
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)
        self.apply_initialisers()

    @classmethod
    def from_bilinear(cls, bilinear: nn.Bilinear | Bilinear, *, symmetric: bool = False) -> TensorReduction:
        """The layer that gives bilinear(x, x), with a copy of its parameters.

        Args:
            bilinear: of this package or of torch.nn, with in1_features = in2_features.
            symmetric: pack the weight: W_ij + W_ji for i < j, W_ii on the diagonal.

        Raises:
            ValueError: in1_features and in2_features differ.
        """
        out_features, dim, other = bilinear.weight.shape
        if dim != other:
            raise ValueError(f"TensorReduction: bilinear must have in1_features = in2_features, got {dim} and {other}")
        kind = {"device": bilinear.weight.device, "dtype": bilinear.weight.dtype}
        made = nn.utils.skip_init(cls, dim, out_features, symmetric=symmetric, bias=bilinear.bias is not None, **kind)
        with torch.no_grad():
            made.weight.copy_(_packed(bilinear.weight) if symmetric else bilinear.weight)
            if made.bias is not None:
                made.bias.copy_(bilinear.bias)
        return made

    def to_bilinear(self) -> Bilinear:
        """A `Bilinear` that gives this layer's output for bilinear(x, x), with a copy of the parameters.

        A packed weight becomes the symmetric one: half of it goes to W_ij and half to W_ji for i < j.
        """
        kind = {"device": self.weight.device, "dtype": self.weight.dtype}
        sizes = (self.in_features, self.in_features, self.out_features)
        made = nn.utils.skip_init(Bilinear, *sizes, bias=self.bias is not None, **kind)
        with torch.no_grad():
            made.weight.copy_(unpacked(self.weight) if self.symmetric else self.weight)
            if made.bias is not None:
                made.bias.copy_(self.bias)
        return made

    def forward(self, input: Tensor) -> Tensor:
        return functional.tensor_reduction(input, self.weight, self.bias, symmetric=self.symmetric)

    def extra_repr(self) -> str:
        text = f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        return text + (", symmetric=True" if self.symmetric else "") + self.initialisers_repr()


class LazyTensorReduction(Lazy, TensorReduction):
    """`TensorReduction` that takes in_features from the first input.

    Args:
        out_features, symmetric, bias, device, dtype, weight_init, bias_init: see `TensorReduction`.

    Source, promises: see `pylayers.modules.lazy`.

    Equivalent to:
        >>> TensorReduction(input.shape[-1], out_features, symmetric=symmetric, bias=bias, device=device, dtype=dtype)
    """

    cls_to_become = TensorReduction

    def __init__(
        self,
        out_features: int,
        *,
        symmetric: bool = False,
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        weight_init: Initialiser | None = None,
        bias_init: Initialiser | None = None,
    ) -> None:
        chosen = dict(weight_init=weight_init, bias_init=bias_init)
        super().__init__(0, out_features, symmetric=symmetric, bias=bias, device=device, dtype=dtype, **chosen)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"weight": self._weight_shape(), "bias": (self.out_features,)}

    def sizes_of_input(self, input: Tensor) -> dict[str, int]:
        return {"in_features": input.shape[-1]}

    def sizes_of_state(self, shapes: Mapping[str, torch.Size]) -> dict[str, int]:
        last = shapes["weight"][-1]  # n, or n · (n + 1) / 2
        return {"in_features": math.isqrt(2 * last) if self.symmetric else last}


def _packed(weight: Tensor) -> Tensor:
    row, col = torch.triu_indices(weight.shape[-1], weight.shape[-1], device=weight.device)
    upper, lower = weight[:, row, col], weight[:, col, row]
    return torch.where(row == col, upper, upper + lower)
