"""The kernels of csrc/ops.def in Triton: same names, same order of arguments, tensors and None."""
from .add_layer_norm import add_layer_norm_backward, add_layer_norm_forward
from .add_rms_norm import add_rms_norm_backward, add_rms_norm_forward
from .bilinear import bilinear_contract, bilinear_outer
from .centered import centered_backward, centered_forward
from .cross_entropy import cross_entropy_backward, cross_entropy_forward
from .dropout_add import dropout_add_backward, dropout_add_forward
from .gate import gate_backward, gate_forward
from .group_norm import group_norm_backward, group_norm_forward
from .halve_until import halve_until_backward, halve_until_forward
from .layer_norm import layer_norm_backward, layer_norm_forward
from .leading_fourier import leading_fourier_backward
from .linear import linear_epilogue_backward, linear_epilogue_forward, linear_forward
from .pointwise_loss import pointwise_loss_backward, pointwise_loss_forward
from .rms_norm import rms_norm_backward, rms_norm_forward
from .rotary import rotary
from .softmax import (
    softmax_backward,
    softmax_columns_backward,
    softmax_columns_forward,
    softmax_forward,
    softmax_masked_backward,
    softmax_masked_forward,
)
from .tensor_reduction import tensor_reduction_contract, tensor_reduction_outer
from .two_sided_uniform import two_sided_uniform
