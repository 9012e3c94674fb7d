"""How to save architecture and parameters together? Which restrictions does that impose on the architecture?"""

import tempfile
from pathlib import Path

import torch
from torch import nn

import pylayers
from pylayers import io


class Residual(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.dim = dim
        self.linear = pylayers.Linear(dim, dim, activation="relu")

    def forward(self, x):
        return x + self.linear(x)


def main():
    torch.manual_seed(0)
    net, x = nn.Sequential(Residual(8), pylayers.Linear(8, 2)), torch.rand(3, 8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        try:
            io.save_model(net, path)
        except (TypeError, ValueError) as error:
            print("a class that is not registered:", str(error).splitlines()[0])
        io.register(Residual)
        io.save_model(net, path)
        print("the same bits:", torch.equal(io.load_model(path)(x), net(x)))
    print("Answer: a file holds names of registered classes and their constructor arguments, never code; so every class is registered,")
    print("        and all that shapes it is a constructor argument of plain data.")


if __name__ == "__main__":
    main()
