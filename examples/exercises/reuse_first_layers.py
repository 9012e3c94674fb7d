"""The first two layers of a network are used in another one of a different architecture."""

import torch
from torch import nn

import pylayers
from pylayers import io


def main():
    torch.manual_seed(0)
    trained = nn.Sequential(pylayers.Linear(8, 16, activation="relu"), pylayers.Linear(16, 16, activation="relu"), pylayers.Linear(16, 10))
    new = nn.ModuleDict(
        {
            "features": nn.Sequential(pylayers.Linear(8, 16, activation="relu"), pylayers.Linear(16, 16, activation="relu")),
            "score": pylayers.Linear(16, 2),
        }
    )
    report = io.load_matching(new, trained.state_dict(), rename={"0.": "features.0.", "1.": "features.1."})
    print(report)
    print("taken:", torch.equal(new["features"][1].weight, trained[1].weight))
    for parameter in new["features"].parameters():
        parameter.requires_grad_(False)  # frozen: costs no gradient
    new["score"](new["features"](torch.rand(2, 8))).sum().backward()
    print("frozen layers have no gradient:", all(parameter.grad is None for parameter in new["features"].parameters()))
    print("Answer: load_matching with a rename; what does not fit is reported, not raised.")


if __name__ == "__main__":
    main()
