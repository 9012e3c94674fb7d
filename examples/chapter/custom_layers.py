"""Layers of one's own: without parameters, with parameters, and proved to be good citizens."""

import torch
from torch import nn

import pylayers
from pylayers import functional as F
from pylayers.testing import check_layer


class MyLinear(nn.Module):
    """The book's layout [in, units]. Reads the Parameters themselves: through `.data` it would never train."""

    def __init__(self, in_units, units, device=None, dtype=None):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(in_units, units, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(units, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self):
        nn.init.normal_(self.weight)
        nn.init.normal_(self.bias)

    def forward(self, x):
        return F.linear(x, self.weight.t(), self.bias, activation="relu")

    def extra_repr(self):
        return "in_units={}, units={}".format(*self.weight.shape)


class Untrainable(MyLinear):
    """What a well-known listing does."""

    def forward(self, x):
        return torch.relu(x @ self.weight.data + self.bias.data)


def main():
    torch.manual_seed(0)
    center = pylayers.CenteredLayer()
    print("centred:", center(torch.tensor([1.0, 2, 3, 4, 5])).tolist())
    net = nn.Sequential(pylayers.LazyLinear(128), pylayers.CenteredLayer())
    print("mean after a layer is about 0:", abs(net(torch.rand(4, 8)).mean().item()) < 1e-6)

    linear = MyLinear(5, 3)
    print("book's layout:", tuple(linear.weight.shape), tuple(linear(torch.rand(2, 5)).shape))
    net = nn.Sequential(MyLinear(64, 8), MyLinear(8, 1))
    print("in Sequential:", tuple(net(torch.rand(2, 64)).shape))

    print("contract of MyLinear:", "passed" if check_layer(MyLinear(5, 3), torch.rand(4, 5)).passed else "failed")
    report = check_layer(Untrainable(5, 3), torch.rand(4, 5))
    print("contract of the listing:", "passed" if report.passed else "failed")
    for finding in report.failed:
        print("  ", " ".join(str(finding).split())[:100])


if __name__ == "__main__":
    main()
