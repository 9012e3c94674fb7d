"""Custom layers for PyTorch: hand-written CUDA, Triton and C++ kernels behind drop-in modules."""

from . import functional, init, reference
from . import device, functional, io, reference
from . import blocks, functional, reference
from .backends import backend, backends, kernels, register_kernels
from .modules import GatedMLP, LazyGatedMLP, LazyLinear, LazyRMSNorm, Linear, RMSNorm
from .modules import Bilinear, GatedMLP, Linear, RMSNorm, TensorReduction
from .headers import include
from .modules import GatedMLP, Linear, RMSNorm
from .version import __version__

__all__ = [
    "Bilinear",
    "GatedMLP",
    "LazyGatedMLP",
    "LazyLinear",
    "LazyRMSNorm",
from .modules import FixedLinear, GatedMLP, LeadingFourier, Linear, Parallel, RMSNorm, ScaledLinear
from .version import __version__

__all__ = [
    "FixedLinear",
    "GatedMLP",
    "LeadingFourier",
from .modules import CenteredAffine, CenteredLayer, GatedMLP, HalveUntil, Linear, RMSNorm
from .version import __version__

__all__ = [
    "CenteredAffine",
    "CenteredLayer",
    "GatedMLP",
    "HalveUntil",
    "Linear",
    "Parallel",
    "RMSNorm",
    "TensorReduction",
    "ScaledLinear",
    "__version__",
    "backend",
    "backends",
    "device",
    "blocks",
    "emulator",
    "functional",
    "init",
    "io",
    "include",
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
