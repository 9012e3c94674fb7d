"""Custom layers for PyTorch: hand-written CUDA, Triton and C++ kernels behind drop-in modules."""

from . import device, functional, io, reference
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
    "device",
    "emulator",
    "functional",
    "io",
    "kernels",
    "reference",
    "register_kernels",
]


def __getattr__(name: str):
    """pylayers.emulator, loaded when it is first asked for."""
    if name == "emulator":
        import importlib

        return importlib.import_module(".emulator", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
