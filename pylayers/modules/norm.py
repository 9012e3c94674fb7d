"""What the layers that normalise share, and their lazy forms."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .initialised import Initialised
from .lazy import Lazy


def as_shape(normalized_shape: int | Sequence[int]) -> tuple[int, ...]:
    return (normalized_shape,) if isinstance(normalized_shape, numbers.Integral) else tuple(normalized_shape)


class ScaledAndShifted(Initialised, nn.Module):
    """Has a weight that starts at 1 and a bias that starts at 0, or one of them, or none."""

    def register(self, shape: tuple[int, ...], weight: bool, bias: bool, **kind) -> None:
        """The parameters that are wanted, uninitialised; kind: their device and dtype."""
        for name, wanted in (("weight", weight), ("bias", bias)):
            self.register_parameter(name, nn.Parameter(torch.empty(shape, **kind)) if wanted else None)

    def reset_parameters(self) -> None:
        """Sets the weight to 1 and the bias to 0, or by the initialisers that were chosen."""
        if self.weight is not None:
            nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        self.apply_initialisers()


class LazyNorm(Lazy):
    """Takes `normalized_shape`, one dimension, from the last one of the input."""

    normalized_shape: tuple[int, ...]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"weight": self.normalized_shape, "bias": self.normalized_shape}

    def sizes_of_input(self, input: Tensor, residual: Tensor | None = None) -> dict[str, tuple[int, ...]]:
        return {"normalized_shape": (input.shape[-1],)}

    def sizes_of_state(self, shapes: Mapping[str, torch.Size]) -> dict[str, tuple[int, ...]]:
        return {"normalized_shape": (shapes["weight"][-1],)}
