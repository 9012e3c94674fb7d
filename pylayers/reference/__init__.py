from .leading_fourier import leading_fourier
from .linear import linear
from .parallel import parallel_linear
from .rms_norm import rms_norm
from .swiglu import swiglu, swiglu_packed

__all__ = ["leading_fourier", "linear", "parallel_linear", "rms_norm", "swiglu", "swiglu_packed"]
