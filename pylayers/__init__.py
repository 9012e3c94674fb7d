"""Custom layers for PyTorch: hand-written CUDA, Triton and C++ kernels behind drop-in modules."""

from . import functional, reference
from .backends import backend, backends, kernels, register_kernels
from .headers import include
from .modules import GatedMLP, Linear, RMSNorm
from .version import __version__

__all__ = [
    "GatedMLP",
    "Linear",
    "RMSNorm",
    "__version__",
    "backend",
    "backends",
    "emulator",
    "functional",
    "include",
    "kernels",
    "reference",
    "register_kernels",
    "testing",
]


def __getattr__(name: str):
    """pylayers.emulator and pylayers.testing, loaded when they are first asked for."""
    if name in ("emulator", "testing"):
        import importlib

        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
