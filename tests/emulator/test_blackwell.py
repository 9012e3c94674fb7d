"""The kernels as compiled for a B200, whose PTX has instructions that the others lack."""

import needs
import pytest
import torch
from pylayers import check

import pylayers

# CUDA kernels share their helpers, so one of rows, one of elements and one of products do.
SOURCES = [pytest.param("cuda", op, marks=needs.nvcc) for op in ("rms_norm", "gate", "linear")]
KERNELS = [pytest.param("triton", op, marks=needs.triton) for op in check.ops()]


@pytest.mark.parametrize("backend, op", SOURCES + KERNELS)
def test_blackwell(backend, op):
    with pylayers.emulator.on("b200", backends=[backend], sources=[op]):
        result = check.check(op, backend, "cpu", torch.bfloat16)
    assert result.passed, result
