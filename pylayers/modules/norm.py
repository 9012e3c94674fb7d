"""What the lazy forms of the layers that normalise share."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .lazy import Lazy


class LazyNorm(Lazy):
    """Takes `normalized_shape`, one dimension, from the last one of the input."""

    normalized_shape: tuple[int, ...]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"weight": self.normalized_shape, "bias": self.normalized_shape}

    def sizes_of_input(self, input: Tensor, residual: Tensor | None = None) -> dict[str, tuple[int, ...]]:
        return {"normalized_shape": (input.shape[-1],)}

    def sizes_of_state(self, shapes: Mapping[str, torch.Size]) -> dict[str, tuple[int, ...]]:
        return {"normalized_shape": (shapes["weight"][-1],)}
