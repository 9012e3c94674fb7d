from .bilinear import Bilinear, LazyBilinear
from .centered import CenteredAffine, CenteredLayer, LazyCenteredAffine
from .fixed_linear import FixedLinear, LazyFixedLinear
from .gated_mlp import GatedMLP, LazyGatedMLP
from .halve_until import HalveUntil
from .leading_fourier import LeadingFourier
from .linear import LazyLinear, Linear
from .parallel import Parallel
from .rms_norm import LazyRMSNorm, RMSNorm
from .scaled_linear import LazyScaledLinear, ScaledLinear
from .tensor_reduction import LazyTensorReduction, TensorReduction

__all__ = [
    "Bilinear",
    "CenteredAffine",
    "CenteredLayer",
    "FixedLinear",
    "GatedMLP",
    "HalveUntil",
    "LazyBilinear",
    "LazyCenteredAffine",
    "LazyFixedLinear",
    "LazyGatedMLP",
    "LazyLinear",
    "LazyRMSNorm",
    "LazyScaledLinear",
    "LazyTensorReduction",
    "LeadingFourier",
    "Linear",
    "Parallel",
    "RMSNorm",
    "ScaledLinear",
    "TensorReduction",
]
