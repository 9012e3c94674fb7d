"""Calls of every op, small and odd, to run on the emulator."""

import harness
import pytest
import torch
from pylayers import functional, reference


def _over_last(rms_norm):
    return lambda x, weight: rms_norm(x, weight.shape, weight, 1e-6)


def _with_gelu(linear):
    return lambda x, weight, bias: linear(x, weight, bias, activation="gelu")


def _scaled(linear):
    return lambda x, weight, bias: linear(x, weight, bias, activation="tanh", scale=0.5)


def _symmetric(tensor_reduction):
    return lambda x, weight: tensor_reduction(x, weight, symmetric=True)


CALLS = {
    "rms_norm": (_over_last(functional.rms_norm), _over_last(reference.rms_norm), [(5, 67), (67,)]),
    "rms_norm wide": (_over_last(functional.rms_norm), _over_last(reference.rms_norm), [(3, 1024), (1024,)]),
    "swiglu": (functional.swiglu, reference.swiglu, [(5, 67), (5, 67)]),
    "swiglu_packed": (functional.swiglu_packed, reference.swiglu_packed, [(3, 64)]),
    "bilinear": (functional.bilinear, reference.bilinear, [(5, 9), (5, 17), (35, 9, 17), (35,)]),
    "tensor_reduction": (_symmetric(functional.tensor_reduction), _symmetric(reference.tensor_reduction), [(5, 17), (16, 153)]),
    "linear": (_with_gelu(functional.linear), _with_gelu(reference.linear), [(5, 17), (9, 17), (9,)]),
    "linear with a scale": (_scaled(functional.linear), _scaled(reference.linear), [(5, 17), (9, 17), (9,)]),
    "leading_fourier": (functional.leading_fourier, reference.leading_fourier, [(5, 66)]),
}

every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])


def holds(call: tuple, dtype: torch.dtype, backend: str) -> None:
    function, definition, sizes = call
    inputs = tuple(harness.normal(*size, dtype=dtype, seed=seed) for seed, size in enumerate(sizes))
    harness.matches_float64(function, definition, inputs, backend)
