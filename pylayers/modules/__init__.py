from .fixed_linear import FixedLinear
from .gated_mlp import GatedMLP
from .leading_fourier import LeadingFourier
from .linear import Linear
from .parallel import Parallel
from .rms_norm import RMSNorm
from .scaled_linear import ScaledLinear

__all__ = ["FixedLinear", "GatedMLP", "LeadingFourier", "Linear", "Parallel", "RMSNorm", "ScaledLinear"]
