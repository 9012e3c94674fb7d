"""y = weight · tanh(x) + bias, in CUDA, Triton, C++ and plain PyTorch."""

from importlib.util import find_spec

import pylayers  # loads the library that _C is linked with

from . import reference
from .functional import scaled_tanh
from .module import ScaledTanh

__all__ = ["ScaledTanh", "reference", "scaled_tanh"]

if find_spec("triton") is not None:
    from . import triton_kernels

    pylayers.register_kernels("triton", triton_kernels)
