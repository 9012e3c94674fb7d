from .centered import center, centered_affine
from .halve_until import halve_until
from .linear import linear
from .rms_norm import rms_norm
from .swiglu import swiglu, swiglu_packed

__all__ = ["center", "centered_affine", "halve_until", "linear", "rms_norm", "swiglu", "swiglu_packed"]
