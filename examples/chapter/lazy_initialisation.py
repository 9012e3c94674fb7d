"""Deferred initialisation: no input sizes anywhere, parameters when the first data comes."""

import copy

import torch
from torch import nn

import pylayers


def make():
    return nn.Sequential(pylayers.LazyLinear(256, activation="relu"), pylayers.LazyLinear(10))


def main():
    torch.manual_seed(0)
    net = make()
    print("before data:", type(net[0]).__name__)
    try:
        net[0].weight.sum()
    except (ValueError, RuntimeError) as error:
        print("its parameters cannot be used:", str(error).splitlines()[0][:60])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)  # the parameters it holds stay the same objects
    weight, fresh = net[0].weight, copy.deepcopy(net)

    net(torch.rand(2, 20))
    print("after data:", type(net[0]).__name__, tuple(net[0].weight.shape), tuple(net[1].weight.shape))
    print("the same object:", weight is net[0].weight, "plain class:", type(net[0]) is pylayers.Linear)
    before = weight.detach().clone()
    net(torch.rand(2, 20)).sum().backward()
    optimizer.step()
    print("an optimiser made before trains it:", not torch.equal(before, net[0].weight))

    fresh.load_state_dict(net.state_dict())
    print("a copy without shapes takes its state:", tuple(fresh[0].weight.shape))

    torch.manual_seed(1)
    other = make()
    pylayers.init.apply_init(other, torch.rand(2, 20), lambda m: isinstance(m, pylayers.Linear) and nn.init.ones_(m.weight))
    print("a dry run, then an initialiser:", other[1].weight.mean().item())
    try:
        net(torch.rand(2, 21))
    except (ValueError, RuntimeError) as error:
        print("other sizes later:", str(error).splitlines()[0])


if __name__ == "__main__":
    main()
