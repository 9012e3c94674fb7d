"""A block that takes two networks and returns the concatenation of their outputs: a parallel block."""

import torch

import pylayers


def main():
    torch.manual_seed(0)
    x = torch.rand(6, 20)
    first, second = pylayers.Linear(20, 8), pylayers.Linear(20, 12)
    block = pylayers.Parallel(first, second)
    y = block(x)
    print("concatenated:", tuple(y.shape), torch.allclose(y, torch.cat([first(x), second(x)], -1), atol=1e-6))
    mixed = pylayers.Parallel(torch.nn.Sequential(pylayers.Linear(20, 4), torch.nn.Tanh()), pylayers.RMSNorm(20))
    print("any two networks:", tuple(mixed(x).shape))
    y.sum().backward()
    print("both learn:", first.weight.grad is not None and second.weight.grad is not None)
    print("Answer: Parallel(*branches); branches that are all Linear write into one output, nothing is copied together.")


if __name__ == "__main__":
    main()
