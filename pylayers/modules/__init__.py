from .add_layer_norm import AddLayerNorm, LazyAddLayerNorm
from .add_rms_norm import AddRMSNorm, LazyAddRMSNorm
from .bilinear import Bilinear, LazyBilinear
from .centered import CenteredAffine, CenteredLayer, LazyCenteredAffine
from .cross_entropy import CrossEntropyLoss
from .dropout_add import DropoutAdd
from .fixed_linear import FixedLinear, LazyFixedLinear
from .gated_mlp import GatedMLP, LazyGatedMLP
from .group_norm import GroupNorm, LazyGroupNorm
from .halve_until import HalveUntil
from .layer_norm import LayerNorm, LazyLayerNorm
from .leading_fourier import LeadingFourier
from .linear import LazyLinear, Linear
from .linear_cross_entropy import LazyLinearCrossEntropyLoss, LinearCrossEntropyLoss
from .parallel import Parallel
from .pointwise_loss import BCEWithLogitsLoss, KLDivLoss, MSELoss
from .rms_norm import LazyRMSNorm, RMSNorm
from .rotary import RotaryEmbedding
from .scaled_linear import LazyScaledLinear, ScaledLinear
from .softmax import LogSoftmax, Softmax
from .tensor_reduction import LazyTensorReduction, TensorReduction

__all__ = [
    "AddLayerNorm",
    "AddRMSNorm",
    "Bilinear",
    "CenteredAffine",
    "CenteredLayer",
    "CrossEntropyLoss",
    "DropoutAdd",
    "FixedLinear",
    "GatedMLP",
    "GroupNorm",
    "HalveUntil",
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
    "Parallel",
    "RMSNorm",
    "RotaryEmbedding",
    "ScaledLinear",
    "Softmax",
    "TensorReduction",
]
