"""A layer that computes y_k = Σ_ij W_ijk x_i x_j."""

import torch

import pylayers


def main():
    torch.manual_seed(0)
    layer = pylayers.TensorReduction(6, 4)
    x = torch.rand(3, 6, requires_grad=True)
    y = layer(x)
    print("output:", tuple(y.shape), torch.allclose(y, torch.einsum("kij,bi,bj->bk", layer.weight, x, x), atol=1e-6))
    y.sum().backward()
    print("gradients:", tuple(x.grad.shape), tuple(layer.weight.grad.shape))
    half = pylayers.TensorReduction(6, 4, symmetric=True)
    print("W_ij and W_ji act together, so half is enough:", half.weight.numel(), "of", layer.weight.numel(), "numbers")
    print("Answer: TensorReduction(in_features, out_features); symmetric=True stores i ≤ j only.")


if __name__ == "__main__":
    main()
