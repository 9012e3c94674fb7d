"""The faults that are planted into the kernels, by the kind of kernel."""

from . import cpu, cuda, cuda_norm, cuda_softmax, triton

FAULTS = {"cuda": cuda.FAULTS + cuda_norm.FAULTS + cuda_softmax.FAULTS, "triton": triton.FAULTS, "cpu": cpu.FAULTS}
