"""The stand-in for the CUDA runtime, under a launcher that asks it much."""

import shutil
from pathlib import Path

import needs
import pytest
import torch
from pylayers.emulator import Fault, LaunchError, gpus, sources

import pylayers

pytestmark = needs.nvcc
HERE = Path(__file__).parent
FACTS, MUCH_SHARED, ALLOWED_SHARED, WIDE_BLOCK, CLUSTER, MEMSET, OUTSIDE, UNKNOWN, HALF = range(1, 10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("sources")
    (made / "csrc/cuda").mkdir(parents=True)
    for name in ("kernels.h", "view.h", "ops.def"):
        shutil.copy(sources.csrc() / name, made / "csrc")
    shutil.copy(HERE / "runtime.cu", made / "csrc/cuda")
    return made


@pytest.fixture
def ask(folder, monkeypatch):
    """y of the launcher for one task."""
    monkeypatch.setenv("PYLAYERS_SOURCES", str(folder))

    def run(task: int, x: torch.Tensor, device: str = "h200") -> torch.Tensor:
        with pylayers.emulator.on(device, order=(0, 1), backends=["cuda"]), pylayers.backend("cuda"):
            return pylayers.functional.rms_norm(x, x.shape[-1:], eps=float(task))

    return run


def test_facts(ask):
    h200 = gpus.find("h200")
    facts = ask(FACTS, torch.zeros(1, 4))[0].tolist()
    assert facts == [h200.multiprocessors, h200.shared_per_block_opt_in, 512, 2]


@pytest.mark.parametrize("task", [ALLOWED_SHARED, CLUSTER])
def test_launches(ask, task):
    x = torch.randn(2, 32)
    assert torch.equal(ask(task, x), x)


def test_memset(ask):
    assert torch.equal(ask(MEMSET, torch.ones(3, 5)), torch.zeros(3, 5))


@pytest.mark.parametrize(
    "task, device, error, sentence",
    [
        (MUCH_SHARED, "b200", LaunchError, "kernel .*copies.*: 65536 bytes of shared memory, but 49152 is all without an opt-in"),
        (WIDE_BLOCK, "h200", LaunchError, "a block has 1024 threads, the kernel was compiled for 512 at most"),
        (CLUSTER, "a100", LaunchError, "a cluster has 2 blocks, a100 takes 1 to 1"),
        (OUTSIDE, "h200", Fault, "the launcher writes 260 bytes that are no output"),
        (UNKNOWN, "h200", RuntimeError, "rms_norm_forward: invalid argument"),
        (HALF, "h200", Fault, "128 of 256 bytes of output y were never written"),
    ],
)
def test_refused(ask, task, device, error, sentence):
    with pytest.raises(error, match=sentence):
        ask(task, torch.ones(2, 32), device)
