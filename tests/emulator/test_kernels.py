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


# float16 goes the ways of bfloat16: one kernel of rows and one of products are enough of it. Triton compiles for seconds: of float64
# one kernel of rows, and of the others every other size in either dtype.
FEW = {"cuda": ("rms_norm", "linear"), "triton": ("rms_norm",)}
FOR_ALL = {"cuda": (torch.float32, torch.bfloat16, torch.float64), "triton": (torch.float32, torch.bfloat16)}
EVERY_OTHER = {torch.float32: slice(0, None, 2), torch.bfloat16: slice(1, None, 2)}
CASES = [
    pytest.param(*backend.values, dtype, op, marks=backend.marks, id=f"{backend.values[0]}-{str(dtype).removeprefix('torch.')}-{op}")
    for backend in BACKENDS
    for dtype in harness.DTYPES
    for op in check.ops()
    if dtype in FOR_ALL[backend.values[0]] or op in FEW[backend.values[0]]
]


@pytest.mark.parametrize("backend, dtype, op", CASES)
def test_all_sizes(backend, dtype, op, monkeypatch):
    if backend == "triton" and dtype in EVERY_OTHER:
        for sizes in ("ROW_SIZES", "PRODUCT_SIZES"):
            monkeypatch.setattr(check, sizes, getattr(check, sizes)[EVERY_OTHER[dtype]])
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
