from .gated_mlp import GatedMLP, LazyGatedMLP
from .linear import LazyLinear, Linear
from .rms_norm import LazyRMSNorm, RMSNorm

__all__ = ["GatedMLP", "LazyGatedMLP", "LazyLinear", "LazyRMSNorm", "Linear", "RMSNorm"]
from .bilinear import Bilinear
from .gated_mlp import GatedMLP
from .linear import Linear
from .rms_norm import RMSNorm
from .tensor_reduction import TensorReduction

__all__ = ["Bilinear", "GatedMLP", "Linear", "RMSNorm", "TensorReduction"]
