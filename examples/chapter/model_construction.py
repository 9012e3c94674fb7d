"""Building models: Sequential, a module of one's own, blocks in blocks, control flow, a tower, and what they print."""

import torch
from torch import nn

import pylayers
from pylayers import functional as F


class MLP(nn.Module):
    """Two fully connected layers; the activation is part of the first one's kernel."""

    def __init__(self):
        super().__init__()
        self.hidden = pylayers.LazyLinear(256, activation="relu")
        self.out = pylayers.LazyLinear(10)

    def forward(self, x):
        return self.out(self.hidden(x))


class FixedHidden(nn.Module):
    """Python's control flow, a constant weight, and one layer that is called twice."""

    def __init__(self):
        super().__init__()
        self.register_buffer("constant", torch.rand(20, 20))  # saved, moved, never trained
        self.linear = pylayers.LazyLinear(20)

    def forward(self, x):
        x = F.linear(self.linear(x), self.constant, activation="relu")
        x = self.linear(x)
        while x.abs().sum() > 1:  # waits for the device at every turn: HalveUntil does not
            x = x / 2
        return x.sum()


class Nest(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(pylayers.LazyLinear(64, activation="relu"), pylayers.LazyLinear(32, activation="relu"))
        self.linear = pylayers.LazyLinear(16)

    def forward(self, x):
        return self.linear(self.net(x))


def main():
    torch.manual_seed(0)
    x = torch.rand(2, 20)
    net = nn.Sequential(pylayers.LazyLinear(256, activation="relu"), pylayers.LazyLinear(10))
    print("Sequential:", tuple(net(x).shape))
    print("module of one's own:", tuple(MLP()(x).shape))

    chimera = nn.Sequential(Nest(), pylayers.LazyLinear(20), FixedHidden())
    total = chimera(x)
    total.backward()
    print("nested, with control flow:", tuple(total.shape), "gradient finite:", chimera[1].weight.grad.isfinite().all().item())

    tower = pylayers.blocks.make(lambda: nn.Sequential(pylayers.RMSNorm(20), pylayers.GatedMLP(20, 40)), 100)
    print("tower of", len(tower), "blocks:", tuple(tower(x).shape))

    parallel = pylayers.Parallel(pylayers.Linear(20, 3), pylayers.Linear(20, 5))
    print("parallel:", tuple(parallel(x).shape))

    seen = []
    net[0].register_forward_hook(lambda module, inputs, output: seen.append(type(module).__name__))
    net(x)
    print("hook of", seen)

    compiled = torch.compile(MLP(), fullgraph=True)
    with torch.no_grad():
        compiled._orig_mod(x)  # its sizes come from data
        print("compiled equals eager:", torch.allclose(compiled(x), compiled._orig_mod(x), atol=1e-6))
    print(net)


if __name__ == "__main__":
    main()
