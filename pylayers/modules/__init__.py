from .gated_mlp import GatedMLP, LazyGatedMLP
from .linear import LazyLinear, Linear
from .rms_norm import LazyRMSNorm, RMSNorm

__all__ = ["GatedMLP", "LazyGatedMLP", "LazyLinear", "LazyRMSNorm", "Linear", "RMSNorm"]
from .bilinear import Bilinear
from .fixed_linear import FixedLinear
from .gated_mlp import GatedMLP
from .leading_fourier import LeadingFourier
from .linear import Linear
from .parallel import Parallel
from .rms_norm import RMSNorm
from .tensor_reduction import TensorReduction

__all__ = ["Bilinear", "GatedMLP", "Linear", "RMSNorm", "TensorReduction"]
from .scaled_linear import ScaledLinear

__all__ = ["FixedLinear", "GatedMLP", "LeadingFourier", "Linear", "Parallel", "RMSNorm", "ScaledLinear"]
from .centered import CenteredAffine, CenteredLayer
from .gated_mlp import GatedMLP
from .halve_until import HalveUntil
from .linear import Linear
from .rms_norm import RMSNorm

__all__ = ["CenteredAffine", "CenteredLayer", "GatedMLP", "HalveUntil", "Linear", "RMSNorm"]
