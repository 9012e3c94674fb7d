"""activation(gate) · up, from two tensors and from the two halves of one, and the square of relu."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

from pylayers import functional, reference

from .harness import Benchmark, Function, random
from .traffic import Traffic

TANH = "geglu tanh"
EAGER = {"swiglu": F.silu, "geglu": F.gelu, TANH: partial(F.gelu, approximate="tanh"), "reglu": F.relu}
FLOPS = {"swiglu": (5, 10), "geglu": (20, 40), TANH: (11, 22), "reglu": (2, 4), "relu_squared": (2, 3)}  # of an element


def separate(rows: int, dim: int, **kind):
    return random(rows, dim, **kind), random(rows, dim, **kind)


def packed(rows: int, dim: int, **kind):
    return (random(rows, 2 * dim, **kind),)


def alone(rows: int, dim: int, **kind):
    return (random(rows, dim, **kind),)


def eager(name: str) -> Function:
    activation = EAGER[name]
    return lambda gate, up: activation(gate) * up


def eager_packed(name: str) -> Function:
    activation = EAGER[name]

    def call(input: torch.Tensor) -> torch.Tensor:
        gate, up = input.chunk(2, dim=-1)
        return activation(gate) * up

    return call


def eager_relu_squared(input: torch.Tensor) -> torch.Tensor:
    return F.relu(input).square()


def function_of(module, name: str, suffix: str = "") -> Function:
    function = getattr(module, name.split()[0] + suffix)
    return partial(function, approximate="tanh") if name == TANH else function


def liger_swiglu() -> Function:
    from liger_kernel.ops.swiglu import LigerSiLUMulFunction

    return LigerSiLUMulFunction.apply


def liger_geglu() -> Function:
    from liger_kernel.ops.geglu import LigerGELUMulFunction

    return LigerGELUMulFunction.apply


def flashinfer_swiglu() -> Function:
    from flashinfer.activation import silu_and_mul

    return silu_and_mul


def flashinfer_geglu() -> Function:
    from flashinfer.activation import gelu_and_mul

    return gelu_and_mul


PEERS = {
    "swiglu": {"liger_kernel": liger_swiglu},
    TANH: {"liger_kernel": liger_geglu},
    "swiglu_packed": {"flashinfer": flashinfer_swiglu},
    "geglu_packed": {"flashinfer": flashinfer_geglu},
}


def declare(title: str, flops: tuple[int, int], tensors: int = 3, **others) -> Benchmark:
    """Forward moves `tensors` of the output's size, the last of them written; backward these, grad and all but one more."""
    reads = tensors - 1

    def traffic(loaded: int, stored: int) -> Callable[..., Traffic]:
        return lambda backend, rows, dim, size: Traffic(loaded * rows * dim * size, stored * rows * dim * size)

    return Benchmark(
        op="gate",
        title=title,
        elements=lambda rows, dim: (tensors * rows * dim, (2 * reads + 1) * rows * dim),
        flops=lambda rows, dim: (flops[0] * rows * dim, flops[1] * rows * dim),
        traffic={"gate_forward": traffic(reads, 1), "gate_backward": traffic(reads + 1, reads)},
        model_size=lambda model, tokens: (tokens, model.hidden),
        peers=PEERS.get(title, {}),
        **others,
    )


def declare_pair(name: str) -> Benchmark:
    return declare(
        name,
        FLOPS[name],
        function=function_of(functional, name),
        reference=function_of(reference, name),
        eager=eager(name),
        inputs=separate,
        quick=name in ("swiglu", "geglu"),
    )


def declare_packed(name: str) -> Benchmark:
    return declare(
        f"{name}_packed",
        FLOPS[name],
        function=function_of(functional, name, "_packed"),
        reference=function_of(reference, name, "_packed"),
        eager=eager_packed(name),
        inputs=packed,
        quick=False,
    )


RELU_SQUARED = declare(
    "relu_squared",
    FLOPS["relu_squared"],
    tensors=2,
    function=functional.relu_squared,
    reference=reference.relu_squared,
    eager=eager_relu_squared,
    inputs=alone,
    quick=False,
)

BENCHMARKS = (
    declare_pair("swiglu"),
    declare_packed("swiglu"),
    declare_pair("geglu"),
    declare_pair(TANH),
    declare_packed("geglu"),
    declare_pair("reglu"),
    RELU_SQUARED,
)

MODULES = ()
