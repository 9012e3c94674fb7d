"""Custom layers for PyTorch: hand-written CUDA, Triton and C++ kernels behind drop-in modules."""

from . import library  # noqa: F401  (first: it says whether torch is here, and fits)
from . import blocks, device, functional, init, io, reference
from .backends import backend, backends, kernels, register_kernels
from .conversion import ConversionReport, convert, revert
from .headers import include
from .modules import (
    AddLayerNorm,
    AddRMSNorm,
    BCEWithLogitsLoss,
    Bilinear,
    CenteredAffine,
    CenteredLayer,
    CrossEntropyLoss,
    DropoutAdd,
    FixedLinear,
    GatedMLP,
    GroupNorm,
    HalveUntil,
    KLDivLoss,
    LayerNorm,
    LazyAddLayerNorm,
    LazyAddRMSNorm,
    LazyBilinear,
    LazyCenteredAffine,
    LazyFixedLinear,
    LazyGatedMLP,
    LazyGroupNorm,
    LazyLayerNorm,
    LazyLinear,
    LazyLinearCrossEntropyLoss,
    LazyRMSNorm,
    LazyScaledLinear,
    LazyTensorReduction,
    LeadingFourier,
    Linear,
    LinearCrossEntropyLoss,
    LogSoftmax,
    MSELoss,
    Parallel,
    RMSNorm,
    RotaryEmbedding,
    ScaledLinear,
    Softmax,
    TensorReduction,
)
from .version import __version__

__all__ = [
    "ConversionReport",
    "AddLayerNorm",
    "AddRMSNorm",
    "BCEWithLogitsLoss",
    "Bilinear",
    "CenteredAffine",
    "CenteredLayer",
    "CrossEntropyLoss",
    "DropoutAdd",
    "FixedLinear",
    "GatedMLP",
    "GroupNorm",
    "HalveUntil",
    "KLDivLoss",
    "LayerNorm",
    "LazyAddLayerNorm",
    "LazyAddRMSNorm",
    "LazyBilinear",
    "LazyCenteredAffine",
    "LazyFixedLinear",
    "LazyGatedMLP",
    "LazyGroupNorm",
    "LazyLayerNorm",
    "LazyLinear",
    "LazyLinearCrossEntropyLoss",
    "LazyRMSNorm",
    "LazyScaledLinear",
    "LazyTensorReduction",
    "LeadingFourier",
    "Linear",
    "LinearCrossEntropyLoss",
    "LogSoftmax",
    "MSELoss",
    "Parallel",
    "RMSNorm",
    "RotaryEmbedding",
    "ScaledLinear",
    "Softmax",
    "TensorReduction",
    "__version__",
    "backend",
    "backends",
    "blocks",
    "convert",
    "device",
    "emulator",
    "functional",
    "include",
    "init",
    "io",
    "kernels",
    "reference",
    "register_kernels",
    "revert",
]


def __getattr__(name: str):
    """pylayers.emulator, loaded when it is first asked for."""
    if name == "emulator":
        import importlib

        return importlib.import_module(".emulator", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
