"""emulator.run on Triton functions that are not the package's."""

import pytest
import torch
from pylayers import emulator

pytest.importorskip("triton")
import triton_kernels_of_a_user as kernels  # noqa: E402


def arguments():
    x = torch.arange(100.0)
    return [emulator.output(torch.empty(100)), emulator.constant(x), 2.0, 100]


@pytest.mark.parametrize("device", ("a100", "h200"))
def test_runs(device):
    given = arguments()
    counts = emulator.run(kernels.scale, 2, None, given, constants={"BLOCK": 64, "num_warps": 2}, device=device)
    assert torch.equal(given[0].array, 2 * given[1].array)
    assert (counts.load_bytes, counts.store_bytes) == (400, 400)


def test_catches():
    with pytest.raises(emulator.Fault, match="reads global memory out of bounds") as caught:
        emulator.run(kernels.scale_without_mask, 2, None, arguments(), constants={"BLOCK": 64})
    assert "triton_kernels_of_a_user.py:17" in caught.value.source


def test_block_is_for_cuda():
    with pytest.raises(emulator.LaunchError, match="needs `block`"):
        emulator.run("__global__ void k() {}", 1, None, [])
