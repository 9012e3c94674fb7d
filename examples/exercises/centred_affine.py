"""An affine transform of the data that removes the mean and learns an additive offset."""

import torch

import pylayers


def main():
    torch.manual_seed(0)
    x = torch.randn(256, 3) * torch.tensor([1.0, 2, 3]) + torch.tensor([5.0, -5, 0])
    layer = pylayers.CenteredAffine(3)
    print("mean removed:", (layer(x).mean(0).abs() < 1e-5).all().item())
    wanted = torch.tensor([0.5, 1.0, -2.0])
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.3)
    for _ in range(100):
        optimizer.zero_grad()
        (layer(x).mean(0) - wanted).square().sum().backward()
        optimizer.step()
    print("learned offset:", [round(number, 2) for number in layer.bias.tolist()])
    print("Answer: CenteredAffine(num_features); the mean is taken from each batch, offset and scale are parameters.")


if __name__ == "__main__":
    main()
