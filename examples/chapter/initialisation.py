"""Initial values: torch.nn's by default, every initialiser by name, another for each block, one's own distribution."""

import torch
from torch import nn

import pylayers


def main():
    torch.manual_seed(0)
    ours = pylayers.Linear(4, 8)
    torch.manual_seed(0)
    theirs = nn.Linear(4, 8)
    print("the numbers of torch.nn under one seed:", torch.equal(ours.weight, theirs.weight) and torch.equal(ours.bias, theirs.bias))

    net = nn.Sequential(
        pylayers.Linear(4, 8, activation="relu", weight_init=("normal", 0.0, 0.01), bias_init="zeros"),
        pylayers.Linear(8, 8, activation="relu", weight_init="xavier_uniform"),
        pylayers.Linear(8, 1, weight_init=("constant", 42.0)),
    )
    print("Gaussian:", f"{net[0].weight.std().item():.3f}", "bias", net[0].bias.sum().item())
    print("Xavier's bound:", bool(net[1].weight.abs().max() <= (6 / 16) ** 0.5))
    print("constant:", net[2].weight[0, 0].item())

    strange = pylayers.Linear(100, 100, weight_init=pylayers.init.two_sided_uniform_)
    magnitude = strange.weight.detach().abs()
    zeros = (magnitude == 0).float().mean().item()
    print(f"two-sided uniform: {zeros:.2f} zeros, others within", f"[{magnitude[magnitude > 0].min():.1f}, {magnitude.max():.1f}]")
    one, other = torch.empty(5), torch.empty(5)
    for tensor in (one, other):
        pylayers.init.two_sided_uniform_(tensor, generator=torch.Generator().manual_seed(7))
    print("reproducible from a generator:", torch.equal(one, other))

    def set_bias(module):
        nn.init.constant_(module.bias, 0.5)

    pylayers.init.apply_(net, set_bias, pylayers.Linear)
    print("a function for every Linear:", [module.bias.mean().item() for module in net])

    before = [id(parameter) for parameter in net.parameters()]
    pylayers.init.reset_all(net)
    print("initialised again, the same objects:", before == [id(parameter) for parameter in net.parameters()])
    print("back to the constant:", net[2].weight[0, 0].item(), "and bias drawn anew:", net[2].bias.item() != 0.5)
    print("on the meta device:", pylayers.Linear(4, 8, device="meta", weight_init="orthogonal").weight.device)


if __name__ == "__main__":
    main()
