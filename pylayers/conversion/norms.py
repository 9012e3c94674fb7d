"""Root mean square norms of any name, told by what they compute."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .. import functional
from .layers import takes
from .swap import SETTINGS

# The error that a norm may have beside the formula: its input and its normalised input may both be rounded.
_ROUNDINGS = 8.0


@dataclass(frozen=True)
class Norm:
    weight: str  # the parameter's name; empty if there is none
    eps: float
    offset: float


class RMSNorm:
    """y = x / sqrt(mean(x²) + eps) · (offset + weight), over the last dimension."""

    def forward(self, x: Tensor) -> Tensor:
        own = self.__dict__[SETTINGS]
        weight = getattr(self, own.weight) if own.weight else None
        if not takes(x, weight) or torch.is_autocast_enabled(x.device.type):  # where the original's dtype of the result is its own affair
            return super().forward(x)
        return functional.rms_norm(x, x.shape[-1:], weight, own.eps, offset=own.offset)


def exact(norm: Norm, weight: Tensor | None, x: Tensor) -> Tensor:
    """In the dtype of x."""
    y = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + norm.eps)
    return y if weight is None else y * (norm.offset + weight)


def _epsilons(module: nn.Module) -> list[float]:
    return sorted({value for name, value in vars(module).items() if "eps" in name and isinstance(value, float) and 0 <= value < 1e-2})


def inputs_for(module: nn.Module, generator: torch.Generator) -> tuple[Tensor, ...] | None:
    """Rows whose mean is not 0, ordinary ones and ones as small as eps; None for what cannot be a norm."""
    parameters = list(module.parameters())
    if next(module.children(), None) is not None or next(module.buffers(), None) is not None or len(parameters) > 1:
        return None
    if not _epsilons(module) or any(one.dim() != 1 or not one.is_floating_point() for one in parameters):
        return None
    like = parameters[0] if parameters else torch.empty(64)
    x = torch.randn(6, len(like), generator=generator) + 0.5
    x[3:] *= 1e-3
    return (x.to(like.device, like.dtype).view(2, 3, -1),)


def recognise(module: nn.Module, x: Tensor) -> Norm | str:
    """What the module computes of x; or why it is none of our norms."""
    with torch.no_grad():
        y = module(x)
    if not isinstance(y, Tensor) or y.shape != x.shape:
        return "does not return a Tensor of the shape of its input"
    names = [name for name, _ in module.named_parameters()]
    weight = getattr(module, names[0]).detach().double() if names else None
    bound = _ROUNDINGS * torch.finfo(y.dtype).eps
    for eps in _epsilons(module):
        for offset in (0.0, 1.0) if names else (0.0,):
            norm = Norm(names[0] if names else "", eps, offset)
            expected = exact(norm, weight, x.double())
            scale = expected.abs().amax(-1, keepdim=True)
            if bool(((y.double() - expected).abs() <= bound * scale).all()) and bool((scale > 0).any()):
                return norm
    return "does not compute a root mean square norm"
