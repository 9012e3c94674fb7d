import math

# The order of the kernels' activations.
NAMES = ("none", "relu", "gelu", "gelu_tanh", "silu", "tanh", "sigmoid")


def gate_forward(op, gate, up, activation):
    a = op.widen(gate)
    return op.narrow(op.Mul(activated(op, a, op.acc(gate), activation), a if up is None else op.widen(up)), gate)


def gate_packed_forward(op, input, activation):
    gate, up = op.Split(op.widen(input), num_outputs=2, axis=-1)
    return op.narrow(op.Mul(activated(op, gate, op.acc(input), activation), up), input)


def linear_epilogue(op, product, bias, scale, activation):
    return op.narrow(finished(op, op.widen(product), op.widen(bias), op.acc(product), scale, activation), product)


def finished(op, z, bias, acc, scale, activation):
    """activation(scale · (z + bias))"""
    z = z if bias is None else op.Add(z, bias)
    return activated(op, z if scale == 1 else op.Mul(z, op.number(scale, acc)), acc, activation)


def activated(op, x, acc, activation):
    name = NAMES[activation]
    if name in ("gelu", "gelu_tanh"):
        return _gelu(op, x, acc, "tanh" if name == "gelu_tanh" else "none")
    return {
        "none": lambda: x,
        "relu": lambda: op.Relu(x),
        "silu": lambda: op.Mul(x, op.Sigmoid(x)),
        "tanh": lambda: op.Tanh(x),
        "sigmoid": lambda: op.Sigmoid(x),
    }[name]()


def _gelu(op, x, acc, approximate):
    if newer := op.since(20, acc):
        return newer.Gelu(x, approximate=approximate)
    half, one = op.number(0.5, acc), op.number(1.0, acc)
    if approximate == "none":
        inner = op.Erf(op.Mul(x, op.number(math.sqrt(0.5), acc)))
    else:
        cubed = op.Mul(op.number(0.044715, acc), op.Mul(x, op.Mul(x, x)))
        inner = op.Tanh(op.Mul(op.number(math.sqrt(2 / math.pi), acc), op.Add(x, cubed)))
    return op.Mul(op.Mul(half, x), op.Add(one, inner))
