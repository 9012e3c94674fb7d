"""The frequencies of rotary position embeddings: plain ones, and how longer sequences than those of the training stretch them.

Parameters have the names that the configurations of `transformers` give them, and the numbers are those of its formulas, computed
in float64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

# Type → the parameters that it must have, and those that it may have.
PARAMETERS = {
    "default": ((), ()),
    "linear": (("factor",), ()),
    "dynamic": (("factor",), ()),
    "llama3": (("factor", "low_freq_factor", "high_freq_factor"), ("original_max_position_embeddings",)),
    "yarn": (
        ("factor",),
        ("original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"),
    ),
}
# Of configurations, but not of the scaling.
OTHERS = ("rope_type", "type", "rope_theta", "partial_rotary_factor")


@dataclass(frozen=True)
class Frequencies:
    """θ_i of `dim` features, and the factor of the tables.

    Attributes:
        scaling: the type and parameters, as a configuration has them; {} for plain frequencies.
    """

    dim: int
    base: float
    max_positions: int
    scaling: Mapping

    def __post_init__(self) -> None:
        if self.kind not in PARAMETERS:
            raise ValueError(f"RotaryEmbedding: scaling must be of type {', '.join(map(repr, PARAMETERS))}, got {self.kind!r}")
        required, optional = PARAMETERS[self.kind]
        for name in required:
            if name not in self.scaling:
                raise ValueError(f"RotaryEmbedding: scaling of type {self.kind!r} must have {name!r}, got {sorted(self.scaling)}")
        for name in self.scaling:
            if name not in (*required, *optional, *OTHERS):
                raise ValueError(f"RotaryEmbedding: scaling of type {self.kind!r} must have no other keys than "
                                 f"{', '.join(map(repr, (*required, *optional)))}, got {name!r}")
        if self.scaling.get("rope_theta", self.base) != self.base:
            raise ValueError(f"RotaryEmbedding: base must be the rope_theta of scaling ({self.scaling['rope_theta']}), got {self.base}")
        if self.kind == "dynamic" and self.dim == 2:
            raise ValueError("RotaryEmbedding: dim must be more than 2 with scaling of type 'dynamic', got 2")

    @property
    def kind(self) -> str:
        return self.scaling.get("rope_type", self.scaling.get("type", "default"))

    @property
    def original(self) -> int:
        """The positions of the training."""
        return self.scaling.get("original_max_position_embeddings") or self.max_positions

    @property
    def factor(self) -> float:
        return self.scaling.get("factor") or self.max_positions / self.original

    def plain(self, device: torch.device, base: float | Tensor) -> Tensor:
        """base^(−2i / dim)"""
        return base ** (torch.arange(self.dim // 2, device=device, dtype=torch.float64) * (-2 / self.dim))

    def of(self, device: torch.device, length: int | None = None) -> Tensor:
        """[dim / 2] in float64. length: of the sequence, where it is more than max_positions; of 'dynamic' alone."""
        if self.kind == "dynamic" and length is not None:
            return self.plain(device, self._dynamic_base(device, length))
        inverse = self.plain(device, self.base)
        if self.kind == "linear":
            return inverse / self.factor
        if self.kind == "llama3":
            return self._llama3(inverse)
        if self.kind == "yarn":
            return self._mixed(inverse, self._yarn_share(device))
        return inverse

    def _dynamic_base(self, device: torch.device, length: int) -> Tensor:
        """As a tensor: torch.compile need not know the length."""
        stretch = torch.full((), length, device=device, dtype=torch.float64) * (self.factor / self.max_positions) - (self.factor - 1)
        return self.base * stretch ** (self.dim / (self.dim - 2))

    def _mixed(self, inverse: Tensor, share: Tensor) -> Tensor:
        """Frequencies of which a share stays, and what remains is divided by the factor."""
        return inverse * share + inverse / self.factor * (1 - share)

    def _llama3(self, inverse: Tensor) -> Tensor:
        """By the turns that a pair makes over the positions of the training."""
        low, high = self.scaling["low_freq_factor"], self.scaling["high_freq_factor"]
        turns = inverse * (self.original / (2 * math.pi))
        return self._mixed(inverse, ((turns - low) / (high - low)).clamp(0, 1))

    def _yarn_share(self, device: torch.device) -> Tensor:
        """1 up to the pair that makes beta_fast turns over the positions of the training, 0 from that with beta_slow on."""
        low, high = (self._pair_of(self.scaling.get(name) or otherwise) for name, otherwise in (("beta_fast", 32), ("beta_slow", 1)))
        if self.scaling.get("truncate", True):
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, self.dim - 1)
        if low == high:
            high += 0.001
        return 1 - ((torch.arange(self.dim // 2, device=device, dtype=torch.float64) - low) / (high - low)).clamp(0, 1)

    def _pair_of(self, turns: float) -> float:
        return self.dim * math.log(self.original / (turns * 2 * math.pi)) / (2 * math.log(self.base))

    @property
    def magnitude(self) -> float:
        """What cosines and sines are multiplied by: YaRN sharpens the attention of longer sequences."""
        if self.kind != "yarn":
            return 1.0
        if self.scaling.get("attention_factor") is not None:
            return self.scaling["attention_factor"]
        whole, part = self.scaling.get("mscale"), self.scaling.get("mscale_all_dim")
        return self._sharpness(whole) / self._sharpness(part) if whole and part else self._sharpness(1)

    def _sharpness(self, scale: float) -> float:
        return 0.1 * scale * math.log(self.factor) + 1 if self.factor > 1 else 1.0

    def tables(self, positions: Tensor, dtype: torch.dtype, length: int | None = None) -> tuple[Tensor, Tensor]:
        """Cosines and sines for positions of any shape: one more dimension."""
        angles = positions.to(torch.float64)[..., None] * self.of(positions.device, length)
        return (angles.cos() * self.magnitude).to(dtype), (angles.sin() * self.magnitude).to(dtype)
