"""Custom layers for PyTorch: hand-written CUDA, Triton and C++ kernels behind drop-in modules."""

from . import functional, reference
from .backends import backend, backends, kernels, register_kernels
from .modules import GatedMLP, Linear, RMSNorm
from .version import __version__

__all__ = [
    "GatedMLP",
    "Linear",
    "RMSNorm",
    "__version__",
    "backend",
    "backends",
    "functional",
    "kernels",
    "reference",
    "register_kernels",
]
