"""The faults that are planted into the kernels, by the kind of kernel."""

from . import cpu, cuda, triton

FAULTS = {"cuda": cuda.FAULTS, "triton": triton.FAULTS, "cpu": cpu.FAULTS}
