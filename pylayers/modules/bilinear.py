from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .. import functional
from ..init import Initialiser
from .initialised import Initialised
from .lazy import Lazy


class Bilinear(Initialised, nn.Module):
    r"""A bilinear form of two inputs for each output, with the arguments, initial values and state_dict of `torch.nn.Bilinear`.

    .. math:: y_k = \sum_{ij} x_{1,i} \, W_{kij} \, x_{2,j} + b_k

    Args:
        in1_features, in2_features: sizes of the last dimensions of the inputs; in1_features must be above 0.
        out_features: size of the last dimension of the output.
        bias: whether there is a bias.
        device, dtype: of the parameters.
        weight_init, bias_init: how they are initialised, see `pylayers.init.resolve`; uniform in ±1/√in1_features if None.

    Shape: input1 :math:`(*, \text{in1\_features})`, input2 :math:`(*, \text{in2\_features})`, output
    :math:`(*, \text{out\_features})`.

    Parameters: `weight` (out_features, in1_features, in2_features) and `bias` (out_features), uniform in
    :math:`\pm 1 / \sqrt{\text{in1\_features}}`.

    Dtypes, errors, source: see `pylayers.functional.bilinear`.

    Equivalent to:
        >>> torch.nn.Bilinear(in1_features, in2_features, out_features, bias, device, dtype)
    """

    __constants__ = ["in1_features", "in2_features", "out_features"]

    def __init__(
        self,
        in1_features: int,
        in2_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        weight_init: Initialiser | None = None,
        bias_init: Initialiser | None = None,
    ) -> None:
        super().__init__()
        if in1_features <= 0 and not isinstance(self, Lazy):
            raise ValueError(f"Bilinear: in1_features must be above 0, since the initial values are in ±1/√in1_features, got {in1_features}")
        self.in1_features = in1_features
        self.in2_features = in2_features
        self.out_features = out_features
        self.weight = nn.Parameter(torch.empty((out_features, in1_features, in2_features), device=device, dtype=dtype))
        if bias:
            self.bias = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.initialise(weight=weight_init, bias=bias_init)

    def reset_parameters(self) -> None:
        """Draws as torch.nn.Bilinear does, then by the initialisers that were chosen."""
        nn.Bilinear.reset_parameters(self)
        self.apply_initialisers()

    def forward(self, input1: Tensor, input2: Tensor) -> Tensor:
        return functional.bilinear(input1, input2, self.weight, self.bias)

    def extra_repr(self) -> str:
        return nn.Bilinear.extra_repr(self) + self.initialisers_repr()


class LazyBilinear(Lazy, Bilinear):
    """`Bilinear` that takes in1_features and in2_features from the first inputs.

    Args:
        out_features, bias, device, dtype, weight_init, bias_init: see `Bilinear`.

    Source, promises: see `pylayers.modules.lazy`.

    Equivalent to:
        >>> Bilinear(input1.shape[-1], input2.shape[-1], out_features, bias, device, dtype)
    """

    cls_to_become = Bilinear

    def __init__(
        self,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        weight_init: Initialiser | None = None,
        bias_init: Initialiser | None = None,
    ) -> None:
        super().__init__(0, 0, out_features, bias, device, dtype, weight_init=weight_init, bias_init=bias_init)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"weight": (self.out_features, self.in1_features, self.in2_features), "bias": (self.out_features,)}

    def sizes_of_input(self, input1: Tensor, input2: Tensor) -> dict[str, int]:
        return {"in1_features": input1.shape[-1], "in2_features": input2.shape[-1]}

    def sizes_of_state(self, shapes: Mapping[str, torch.Size]) -> dict[str, int]:
        return {"in1_features": shapes["weight"][1], "in2_features": shapes["weight"][2]}
