from .add_layer_norm import add_layer_norm
from .add_rms_norm import add_rms_norm
from .bilinear import bilinear
from .centered import center, centered_affine
from .cross_entropy import cross_entropy
from .dropout_add import dropout_add
from .gate import geglu, geglu_packed, reglu, reglu_packed, relu_squared, swiglu, swiglu_packed
from .group_norm import group_norm
from .halve_until import halve_until
from .layer_norm import layer_norm
from .leading_fourier import leading_fourier
from .linear import linear
from .linear_cross_entropy import linear_cross_entropy
from .linear_kl_div import linear_kl_div
from .parallel import parallel_linear
from .pointwise_loss import binary_cross_entropy_with_logits, kl_div, mse_loss
from .rms_norm import rms_norm
from .rotary import rotary
from .softmax import log_softmax, scaled_masked_softmax, softmax
from .tensor_reduction import tensor_reduction
from .two_sided_uniform import two_sided_uniform_

__all__ = [
    "add_layer_norm",
    "add_rms_norm",
    "bilinear",
    "binary_cross_entropy_with_logits",
    "center",
    "centered_affine",
    "cross_entropy",
    "dropout_add",
    "geglu",
    "geglu_packed",
    "group_norm",
    "halve_until",
    "kl_div",
    "layer_norm",
    "leading_fourier",
    "linear",
    "linear_cross_entropy",
    "linear_kl_div",
    "log_softmax",
    "mse_loss",
    "parallel_linear",
    "reglu",
    "reglu_packed",
    "relu_squared",
    "rms_norm",
    "rotary",
    "scaled_masked_softmax",
    "softmax",
    "swiglu",
    "swiglu_packed",
    "tensor_reduction",
    "two_sided_uniform_",
]
