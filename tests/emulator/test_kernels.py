"""Every CUDA and every Triton kernel, as compiled for a GPU, against float64: all dtypes, odd sizes, views that lie badly."""

import cases
import harness
import needs
import pytest
import torch
from harness import nan_filled_outputs, normal  # noqa: F401
from pylayers import check

import pylayers

BACKENDS = [pytest.param("cuda", marks=needs.nvcc), pytest.param("triton", marks=needs.triton)]
every_gpu_backend = pytest.mark.parametrize("backend", BACKENDS)


# Triton compiles for seconds. In float16, which goes the ways of bfloat16, and in float64, which the interpreter runs too, it does
# for a few kernels.
FEW = ("rms_norm", "gate", "softmax", "linear", "rotary")
FOR_ALL = (torch.float32, torch.bfloat16)
CASES = [
    pytest.param(*backend.values, dtype, op, marks=backend.marks, id=f"{backend.values[0]}-{str(dtype).removeprefix('torch.')}-{op}")
    for backend in BACKENDS
    for dtype in harness.DTYPES
    for op in check.ops()
    if dtype in FOR_ALL or backend.values[0] == "cuda" or op in FEW
]


@pytest.mark.parametrize("backend, dtype, op", CASES)
def test_all_sizes(backend, dtype, op):
    with pylayers.emulator.on("h200", order=(0, 5), backends=[backend]) as emulation:
        result = check.check(op, backend, "cpu", dtype)
    assert result.passed, result
    assert any(name.startswith(op) for name in emulation.counts), "nothing ran on the emulator"


@pytest.mark.parametrize("call", ("rms_norm", "swiglu"))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=("float32", "bfloat16"))
@harness.every_layout
@every_gpu_backend
def test_layouts(backend, layout, dtype, call):
    function, definition, _ = cases.CALLS[call]
    x = layout(normal(6, 32, dtype=dtype))
    other = normal(32, dtype=dtype) if call == "rms_norm" else layout(normal(6, 32, dtype=dtype, seed=1))
    with pylayers.emulator.on("a100", order=(0, 1), backends=[backend], sources=["rms_norm", "gate"]):
        harness.matches_float64(function, definition, (x, other), backend)
