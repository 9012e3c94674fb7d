"""The kernels of csrc/ops.def in Triton: same names, same order of arguments, tensors and None."""
from .bilinear import bilinear_contract, bilinear_outer
from .centered import centered_backward, centered_forward
from .halve_until import halve_until_backward, halve_until_forward
from .leading_fourier import leading_fourier_backward
from .linear import linear_epilogue_backward, linear_epilogue_forward, linear_forward
from .rms_norm import rms_norm_backward, rms_norm_forward
from .swiglu import swiglu_backward, swiglu_forward
from .tensor_reduction import tensor_reduction_contract, tensor_reduction_outer
from .two_sided_uniform import two_sided_uniform
