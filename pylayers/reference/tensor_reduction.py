import torch

from .bilinear import bilinear


def unpacked(weight):
    """The symmetric (out, in, in) weight of a packed one: what stands for W_ij + W_ji is halved again."""
    dim = int((2 * weight.shape[-1]) ** 0.5)
    row, col = torch.triu_indices(dim, dim, device=weight.device)
    upper = weight.new_zeros(*weight.shape[:-1], dim, dim)
    upper = upper.index_put((torch.arange(weight.shape[0], device=weight.device)[:, None], row, col), weight)
    return (upper + upper.mT) / 2


def tensor_reduction(input, weight, bias=None, symmetric=False):
    if not symmetric:
        return bilinear(input, input, weight, bias)
    row, col = torch.triu_indices(input.shape[-1], input.shape[-1], device=input.device)
    y = (input[..., row] * input[..., col]) @ weight.T
    return y if bias is None else y + bias
