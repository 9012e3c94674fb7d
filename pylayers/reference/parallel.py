import torch

from .linear import linear


def parallel_linear(input, weights, biases=None, activation=None):
    biases = [None] * len(weights) if biases is None else biases
    return torch.cat([linear(input, *one, activation=activation) for one in zip(weights, biases, strict=True)], -1)
