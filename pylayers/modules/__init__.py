from .gated_mlp import GatedMLP
from .linear import Linear
from .rms_norm import RMSNorm

__all__ = ["GatedMLP", "Linear", "RMSNorm"]
