"""The kernels of csrc/ops.def in Triton: same names, same order of arguments, tensors and None."""
from .centered import centered_backward, centered_forward
from .halve_until import halve_until_backward, halve_until_forward
from .linear import linear_epilogue_backward, linear_epilogue_forward, linear_forward
from .rms_norm import rms_norm_backward, rms_norm_forward
from .swiglu import swiglu_backward, swiglu_forward
