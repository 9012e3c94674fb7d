from .centered import CenteredAffine, CenteredLayer
from .gated_mlp import GatedMLP
from .halve_until import HalveUntil
from .linear import Linear
from .rms_norm import RMSNorm

__all__ = ["CenteredAffine", "CenteredLayer", "GatedMLP", "HalveUntil", "Linear", "RMSNorm"]
