"""Linear maps of any name, such as GPT-2's Conv1D, whose weight is (in, out): told by what they compute."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .. import functional
from .layers import Linear, takes
from .swap import SETTINGS


@dataclass(frozen=True)
class Affine:
    weight: str
    bias: str  # empty if there is none
    transposed: bool  # whether the weight is (in, out)


class AffineMap(Linear):
    """y = x · weight + bias, or x · weightᵀ + bias."""

    def weight_and_bias(self) -> tuple[Tensor, Tensor | None]:
        own = self.__dict__[SETTINGS]
        weight = getattr(self, own.weight)
        return weight.t() if own.transposed else weight, getattr(self, own.bias) if own.bias else None

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight_and_bias()
        return functional.linear(x, weight, bias) if takes(x, weight) else super(Linear, self).forward(x)


def inputs_for(module: nn.Module, generator: torch.Generator) -> list[tuple[Tensor, ...]]:
    """One for each side that may be that of the input; none for what cannot be a linear map."""
    parameters = list(module.parameters())
    if next(module.children(), None) is not None or next(module.buffers(), None) is not None:
        return []
    if sorted(one.dim() for one in parameters) not in ([2], [1, 2]) or not all(one.is_floating_point() for one in parameters):
        return []
    weight = next(one for one in parameters if one.dim() == 2)
    return [(torch.randn(3, 5, width, generator=generator).to(weight.device, weight.dtype),) for width in dict.fromkeys(weight.shape)]


def recognise(module: nn.Module, x: Tensor) -> Affine | None:
    names = {one.dim(): name for name, one in module.named_parameters()}
    weight, bias = (getattr(module, names[dim]).detach().double() if dim in names else None for dim in (2, 1))
    with torch.no_grad():
        y = module(x)
    for transposed in (True, False):
        matrix = weight if transposed else weight.t()
        if isinstance(y, Tensor) and matrix.shape[0] == x.shape[-1] and y.shape == (*x.shape[:-1], matrix.shape[1]):
            expected = x.double() @ matrix + (0 if bias is None else bias)
            bound = 4 * torch.finfo(y.dtype).eps * max(x.shape[-1], 16) ** 0.5 * expected.abs().amax()
            if bool((y.double() - expected).abs().amax() <= bound) and bool(expected.abs().amax() > 0):
                return Affine(names[2], names.get(1, ""), transposed)
    return None
