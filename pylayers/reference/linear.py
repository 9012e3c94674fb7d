import torch.nn.functional as F

ACTIVATIONS = {
    None: lambda x: x,
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "tanh": lambda x: x.tanh(),
    "sigmoid": lambda x: x.sigmoid(),
}


def linear(input, weight, bias=None, activation=None, scale=1.0):
    return ACTIVATIONS[activation](F.linear(input, weight, bias) * scale)
