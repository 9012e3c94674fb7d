"""The faults that are planted into the kernels, by the kind of kernel."""

from . import cpu, cross_entropy, cuda, cuda_norm, cuda_softmax, group_norm, triton

FAULTS = {
    "cuda": cuda.FAULTS + cuda_norm.FAULTS + cuda_softmax.FAULTS + group_norm.CUDA + cross_entropy.CUDA,
    "triton": triton.FAULTS + group_norm.TRITON + cross_entropy.TRITON,
    "cpu": cpu.FAULTS + group_norm.CPU + cross_entropy.CPU,
}
