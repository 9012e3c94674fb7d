"""Every initialiser of torch.nn.init on every layer with parameters that can take it."""

import inspect

import torch
from torch import nn

import pylayers

ARGUMENTS = {"constant_": (0.5,), "sparse_": (0.5,)}


def initialisers():
    for name, function in vars(nn.init).items():
        if name.endswith("_") and not name.startswith("_") and inspect.isfunction(function):
            yield name


def layers():
    yield "Linear", lambda init: pylayers.Linear(8, 8, weight_init=init)
    yield "RMSNorm", lambda init: pylayers.RMSNorm(8, weight_init=init)
    yield "Bilinear", lambda init: pylayers.Bilinear(4, 4, 8, weight_init=init)
    yield "TensorReduction", lambda init: pylayers.TensorReduction(4, 8, weight_init=init)


def main():
    torch.manual_seed(0)
    names = list(initialisers())
    taken = 0
    for title, make in layers():
        refused = []
        for name in names:
            try:
                layer = make((name, *ARGUMENTS[name]) if name in ARGUMENTS else name)
                assert layer.weight.isfinite().all()
                taken += 1
            except ValueError:  # fans need two dimensions, dirac three to five
                refused.append(name)
        print(f"{title}: {len(names) - len(refused)} of {len(names)}; not for its shape: {', '.join(refused) or 'none'}")
    print("Answer:", taken, "combinations initialised; those refused need another number of dimensions.")


if __name__ == "__main__":
    main()
