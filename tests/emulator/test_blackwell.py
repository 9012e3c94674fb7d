"""The kernels as compiled for a B200, whose PTX has instructions that the others lack."""

import needs
import pytest
import torch
from pylayers import check

import pylayers

# Kernels share their helpers, so one of rows and one of products do; Triton's of sums over blocks too.
SOURCES = [pytest.param("cuda", op, marks=needs.nvcc) for op in ("rms_norm", "linear")]
KERNELS = [pytest.param("triton", op, marks=needs.triton) for op in ("rms_norm", "linear", "bilinear")]


@pytest.mark.parametrize("backend, op", SOURCES + KERNELS)
def test_blackwell(backend, op):
    with pylayers.emulator.on("b200", backends=[backend], sources=[op]):
        result = check.check(op, backend, "cpu", torch.bfloat16)
    assert result.passed, result
