from .bilinear import bilinear
from .centered import center, centered_affine
from .halve_until import halve_until
from .leading_fourier import leading_fourier
from .linear import linear
from .parallel import parallel_linear
from .rms_norm import rms_norm
from .swiglu import swiglu, swiglu_packed
from .tensor_reduction import tensor_reduction

__all__ = [
    "bilinear",
    "center",
    "centered_affine",
    "halve_until",
    "leading_fourier",
    "linear",
    "parallel_linear",
    "rms_norm",
    "swiglu",
    "swiglu_packed",
    "tensor_reduction",
]
