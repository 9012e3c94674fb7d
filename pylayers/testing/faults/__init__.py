"""The faults that are planted into the kernels, by the kind of kernel."""

from . import cpu, cross_entropy, cuda, cuda_norm, cuda_softmax, group_norm, pointwise_loss, triton

FAULTS = {
    "cuda": cuda.FAULTS + cuda_norm.FAULTS + cuda_softmax.FAULTS + group_norm.CUDA + cross_entropy.CUDA + pointwise_loss.CUDA,
    "triton": triton.FAULTS + group_norm.TRITON + cross_entropy.TRITON + pointwise_loss.TRITON,
    "cpu": cpu.FAULTS + group_norm.CPU + cross_entropy.CPU + pointwise_loss.CPU,
}
