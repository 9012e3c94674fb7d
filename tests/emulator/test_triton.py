"""The Triton kernels as Triton compiles them for the GPU, on the emulator."""

import cases
import needs
import pytest
import torch
from harness import nan_filled_outputs  # noqa: F401
from pylayers.emulator import triton
from pylayers.emulator.triton_compiler import Compiled, Pointer

import pylayers

pytestmark = needs.triton


@cases.every_call
def test_ops(call):  # which Triton compiles for a second each: test_kernels has more dtypes
    with pylayers.emulator.on(order=(0, 1, 2), backends=["triton"]) as emulation:
        cases.holds(call, torch.bfloat16, "triton")
    assert emulation.counts


@pytest.mark.parametrize("device, dtype", [("a100", torch.bfloat16), ("l4", torch.bfloat16), ("b200", torch.float32)])
def test_gpus(device, dtype):
    with pylayers.emulator.on(device, backends=["triton"]):
        cases.holds(cases.CALLS["linear"], dtype, "triton")


def kernel():
    from pylayers.triton_kernels import gate

    return gate.forward_kernel


def test_request():
    x = torch.empty(100)
    asked = triton.request(80, kernel(), (x, x[1:], None, 1, 0.5), {"num_warps": 4})
    assert asked.arguments == (Pointer(torch.float32, True), Pointer(torch.float32, False), None, 1, 0.5)
    assert (asked.module, asked.kernel) == ("pylayers.triton_kernels.gate", "forward_kernel")
    assert asked.named == (("num_warps", 4),)


def test_parameters_are_packed_without_constants():
    x = torch.empty(4)
    types = dict.fromkeys(("y", "gate", "up"), "*fp32") | {"y_row": "i32", "gate_row": "constexpr", "dim": "i64"}
    compiled = Compiled("k", "", types, num_warps=4, shared=0, cluster=(1, 1, 1), scratch=0)
    places = [("", 8, 8, 0), ("", 8, 8, 8), ("", 8, 8, 16), ("", 4, 4, 24), ("", 8, 8, 32), ("scratch", 8, 8, 40)]
    named = {"ALIGN": 4, "BLOCK_ROWS": 1, "BLOCK_DIM": 1, "num_warps": 4}
    packed = triton.pack(kernel(), (x, x, x, -7, 1, 2, 3, 1 << 40, 1), named, compiled, places)
    assert packed[:24] == 3 * x.data_ptr().to_bytes(8, "little") and packed[40:] == bytes(8)
    assert int.from_bytes(packed[24:28], "little", signed=True) == -7
    assert int.from_bytes(packed[32:40], "little") == 1 << 40


def test_what_the_compiler_refuses_is_told():
    with pytest.raises(RuntimeError, match="triton: forward_kernel: TypeError: .* missing"):
        triton.compile_kernel(triton.request(80, kernel(), (), {}))
