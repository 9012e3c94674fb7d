"""What problems occur if modules are kept in a Python list? Nobody finds them: no parameters, no state, no training."""

import torch
from torch import nn

import pylayers
from pylayers.testing import check_layer


class Hidden(nn.Module):
    def __init__(self, make=list):
        super().__init__()
        self.layers = make([pylayers.Linear(4, 4, activation="relu"), pylayers.Linear(4, 4)])

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def main():
    torch.manual_seed(0)
    print("parameters in a list:", len(list(Hidden().parameters())), "| in a ModuleList:", len(list(Hidden(nn.ModuleList).parameters())))
    print("saved from a list:", len(Hidden().state_dict()), "tensors")
    report = check_layer(Hidden(), torch.rand(3, 4))
    told = next(str(one) for one in report.failed if "layers" in str(one))
    print("the contract checker says:", " ".join(told.split())[:120])
    print("Answer: a list hides modules from parameters(), state_dict(), .to() and train(); ModuleList does not.")


if __name__ == "__main__":
    main()
