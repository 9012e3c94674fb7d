"""A function that makes many instances of one block, and a larger network built from it."""

import torch
from torch import nn

import pylayers


def block(dim, hidden):
    return nn.Sequential(pylayers.RMSNorm(dim), pylayers.GatedMLP(dim, hidden))


def main():
    torch.manual_seed(0)
    tower = pylayers.blocks.make(block, 100, 16, 32)
    net = nn.Sequential(pylayers.LazyLinear(16), tower, pylayers.LazyLinear(3))
    y = net(torch.rand(4, 7))
    y.sum().backward()
    count = sum(parameter.numel() for parameter in net.parameters())
    print("blocks:", len(tower), "| output:", tuple(y.shape), "| parameters:", count)
    print("all have gradients:", all(parameter.grad is not None for parameter in net.parameters()))
    print("Answer: blocks.make(factory, n) calls the factory for every block, so that no two share parameters.")


if __name__ == "__main__":
    main()
