from .bilinear import Bilinear
from .centered import CenteredAffine, CenteredLayer
from .fixed_linear import FixedLinear
from .gated_mlp import GatedMLP, LazyGatedMLP
from .halve_until import HalveUntil
from .leading_fourier import LeadingFourier
from .linear import LazyLinear, Linear
from .parallel import Parallel
from .rms_norm import LazyRMSNorm, RMSNorm
from .scaled_linear import ScaledLinear
from .tensor_reduction import TensorReduction

__all__ = [
    "Bilinear",
    "CenteredAffine",
    "CenteredLayer",
    "FixedLinear",
    "GatedMLP",
    "HalveUntil",
    "LazyGatedMLP",
    "LazyLinear",
    "LazyRMSNorm",
    "LeadingFourier",
    "Linear",
    "Parallel",
    "RMSNorm",
    "ScaledLinear",
    "TensorReduction",
]
