from .bilinear import Bilinear
from .gated_mlp import GatedMLP
from .linear import Linear
from .rms_norm import RMSNorm
from .tensor_reduction import TensorReduction

__all__ = ["Bilinear", "GatedMLP", "Linear", "RMSNorm", "TensorReduction"]
