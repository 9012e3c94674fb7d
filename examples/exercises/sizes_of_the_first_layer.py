"""What happens if only the first layer is told its input size? And with sizes that do not fit?"""

import torch
from torch import nn

import pylayers


def main():
    torch.manual_seed(0)
    net = nn.Sequential(pylayers.Linear(20, 256, activation="relu"), pylayers.LazyLinear(128), pylayers.LazyLinear(10))
    first = net[0].weight.clone()
    net(torch.rand(2, 20))
    print("the first is initialised at once, the others by data:", [tuple(layer.weight.shape) for layer in net])
    print("data does not initialise it again:", torch.equal(first, net[0].weight))
    wrong = nn.Sequential(pylayers.Linear(20, 256), pylayers.Linear(128, 10))
    try:
        wrong(torch.rand(2, 20))
    except ValueError as error:
        print("mismatched:", error)
    print("Answer: layers with sizes are initialised when made, lazy ones when data comes; a mismatch is told by name and size.")


if __name__ == "__main__":
    main()
