from .gated_mlp import GatedMLP, LazyGatedMLP
from .linear import LazyLinear, Linear
from .rms_norm import LazyRMSNorm, RMSNorm

__all__ = ["GatedMLP", "LazyGatedMLP", "LazyLinear", "LazyRMSNorm", "Linear", "RMSNorm"]
