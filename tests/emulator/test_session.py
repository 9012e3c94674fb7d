"""`with pylayers.emulator.on()`: what it changes, what it puts back, what it refuses."""

import needs
import pytest
import torch
from pylayers.__main__ import main
from pylayers.emulator import Fault, gpus
from pylayers.emulator.launch import Kernel

import pylayers


def emulation(*arguments, **options):
    return pylayers.emulator.on(*arguments, backends=["triton"], **options)


def test_unknown_names():
    with pytest.raises(ValueError, match="there is no GPU 'tpu'; there are a100, l4, h100, h200, b200"):
        pylayers.emulator.on("tpu")
    with pytest.raises(ValueError, match="'cpu' cannot be emulated; these can: cuda, triton"):
        pylayers.emulator.on(backends=["cpu"])


@needs.nvcc
def test_unknown_sources():
    with pytest.raises(ValueError, match=r"there is no csrc/cuda/rms\.cu"), pylayers.emulator.on(sources=["rms"]):
        pass


def test_check_refuses():
    with pytest.raises(SystemExit, match="check: emulator: there is no GPU 'tpu'"):
        main(["check", "--emulate", "--gpu", "tpu"])
    with pytest.raises(SystemExit, match="--gpu names the GPU to emulate"):
        main(["check", "--gpu", "a100"])


@needs.triton
def test_all_is_put_back():
    before = pylayers.backends()
    with emulation("h200"):
        assert pylayers.backends()["triton"].note == "emulated h200, compiled for 9.0"
        assert not pylayers.backends()["triton"].timed
        with emulation("a100"):
            assert pylayers.backends()["triton"].note == "emulated a100, compiled for 8.0"
        assert pylayers.backends()["triton"].note == "emulated h200, compiled for 9.0"
    assert pylayers.backends() == before


@needs.triton
def test_other_backends_are_as_before():
    x = torch.randn(3, 5)
    with emulation() as outer:
        expected = torch.nn.functional.silu(x) * x
        torch.testing.assert_close(pylayers.functional.swiglu(x, x), expected)
        assert not outer.counts


@needs.triton
def test_counts():
    x = torch.randn(4, 64)
    with emulation() as one, pylayers.backend("triton"):
        pylayers.functional.swiglu(x, x)
        pylayers.functional.swiglu(x, x)
    counts = one.counts["gate_forward"]
    assert (counts.launches, counts.load_bytes, counts.store_bytes) == (2, 2 * 2 * 1024, 2 * 1024)


@needs.triton
@pytest.mark.parametrize("checks", [True, False])
def test_an_unwritten_output_is_a_fault(monkeypatch, checks):
    monkeypatch.setattr(Kernel, "launch_raw", lambda *arguments, **options: None)
    x = torch.ones(3, 5)
    with emulation(checks=checks), pylayers.backend("triton"):
        if not checks:
            pylayers.functional.swiglu(x, x)
            return
        with pytest.raises(Fault, match=r"60 of 60 bytes of output y were never written \(kernel gate_forward\)"):
            pylayers.functional.swiglu(x, x)


@needs.triton
def test_fault_in_backward(monkeypatch):
    x = torch.ones(3, 5, requires_grad=True)
    with emulation(), pylayers.backend("triton"):
        y = pylayers.functional.swiglu(x, x)
        monkeypatch.setattr(Kernel, "launch_raw", lambda *arguments, **options: None)
        with pytest.raises(Fault, match="output dgate"):
            y.sum().backward()


H200 = gpus.find("h200")


@pytest.mark.parametrize(
    "size, sentence",
    [
        (gpus.LaunchSize((1, 1, 1), (1024, 1, 1)), None),
        (gpus.LaunchSize((0, 1, 1), (32, 1, 1)), "grid size x is 0, h200 takes 1 to 2147483647"),
        (gpus.LaunchSize((1, 70000, 1), (32, 1, 1)), "grid size y is 70000, h200 takes 1 to 65535"),
        (gpus.LaunchSize((1, 1, 1), (32, 1, 128)), "block size z is 128, h200 takes 1 to 64"),
        (gpus.LaunchSize((1, 1, 1), (64, 32, 1)), "a block has 2048 threads, h200 takes 1024"),
        (gpus.LaunchSize((32, 1, 1), (32, 1, 1), (16, 1, 1)), "a cluster has 16 blocks, h200 takes 1 to 8, more only if"),
        (gpus.LaunchSize((32, 1, 1), (32, 1, 1), (16, 1, 1), large_clusters=True), None),
        (gpus.LaunchSize((3, 1, 1), (32, 1, 1), (2, 1, 1)), "grid size x is 3, no multiple of the cluster's 2"),
        (gpus.LaunchSize((1, 1, 1), (32, 1, 1), static_shared=49153), "49153 bytes of static shared memory"),
        (gpus.LaunchSize((1, 1, 1), (32, 1, 1), dynamic_shared=50000), "50000 bytes of shared memory, but 49152 is all"),
        (gpus.LaunchSize((1, 1, 1), (32, 1, 1), dynamic_shared=50000, granted_shared=50000), None),
        (gpus.LaunchSize((1, 1, 1), (32, 1, 1), dynamic_shared=232449, granted_shared=232449), "h200 takes 232448"),
    ],
)
def test_limits(size, sentence):
    refused = gpus.why_refused(H200, size)
    assert refused is None if sentence is None else sentence in refused


def test_architectures():
    assert {name: gpu.architecture for name, gpu in gpus.GPUS.items()} == dict(a100=80, l4=80, h100=90, h200=90, b200=100)
