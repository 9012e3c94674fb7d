from .linear import linear
from .rms_norm import rms_norm
from .swiglu import swiglu, swiglu_packed

__all__ = ["linear", "rms_norm", "swiglu", "swiglu_packed"]
