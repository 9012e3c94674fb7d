"""The CUDA kernels as nvcc compiles them, launched by their own launchers, on an emulated GPU."""

import cases
import needs
import pytest
import torch
from harness import nan_filled_outputs  # noqa: F401
from pylayers.emulator import Kernel, cuda, sources, toolkit

import pylayers


@needs.nvcc
@cases.every_dtype
@cases.every_call
def test_ops(call, dtype):
    with pylayers.emulator.on(order=(0, 1, 2), backends=["cuda"]) as emulation:
        cases.holds(call, dtype, "cuda")
    assert all(counts.launches for counts in emulation.counts.values()) and emulation.counts


@needs.nvcc
def test_what_a_launch_raises_comes_out_of_the_op(monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyError("a launch")

    monkeypatch.setattr(Kernel, "launch_raw", interrupted)
    x = torch.ones(3, 5)
    with pylayers.emulator.on(backends=["cuda"]), pylayers.backend("cuda"):
        with pytest.raises(KeyError, match="a launch"):
            pylayers.functional.swiglu(x, x)


def test_arguments_have_the_names_of_ops_def():
    assert cuda.kernel_arguments()["gate_forward"] == ["y", "gate", "up", "activation"]
    assert cuda.kernel_arguments().keys() == set(pylayers.kernels())


def test_without_nvcc(monkeypatch):
    monkeypatch.setattr(toolkit, "_homes", lambda: iter([None]))
    sentence = r"found none: pip install torch-pylayers\[emulator\]"
    with pytest.raises(RuntimeError, match=sentence):
        pylayers.emulator.on(backends=["cuda"]).__enter__()
    with pylayers.emulator.on(), pytest.raises(RuntimeError, match=sentence):
        pylayers.backend("cuda").__enter__()


@needs.nvcc
@pytest.mark.parametrize("variable", ["CUDA_HOME", "CUDA_PATH"])
def test_chosen_toolkit(monkeypatch, variable):
    home = toolkit.find().nvcc.parent.parent
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.setenv(variable, str(home))
    assert toolkit.find().nvcc == home / "bin/nvcc"


def test_without_sources(monkeypatch, tmp_path):
    monkeypatch.setenv("PYLAYERS_SOURCES", str(tmp_path))
    with pytest.raises(RuntimeError, match="needs the CUDA kernels' source"):
        sources.csrc()
