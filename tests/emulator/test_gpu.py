"""The comparison of the emulator with a GPU, on a GPU that is made up."""

import json

import gpu
import numpy as np
import pytest
from number_formats import FORMATS

EMULATED = np.array([0x3F800000, 0x40000000, 0x7FFFFFFF], np.uint32)  # 1, 2, NaN


@pytest.fixture(autouse=True)
def no_traces(monkeypatch):
    monkeypatch.setattr(gpu, "compared", {})


def compare(monkeypatch, body, found, type="f32", emulated=EMULATED):
    monkeypatch.setattr(gpu, "launch", lambda text, blocks, arrays: found)
    gpu.compare(body, "", FORMATS[type], 1, [], emulated)


def test_same_bits(monkeypatch):
    compare(monkeypatch, "add.f32 {0}, {1}, {2}", EMULATED)
    assert gpu.compared["add.f32 {0}, {1}, {2}"] == {"values": 3, "different": 0, "worst": 0}


@pytest.mark.parametrize("body", ("add.f32 {0}", "ex2.approx.f32 {0}"))
def test_other_bits(monkeypatch, body):
    for place, bits in ((0, 0x3F800100), (2, 0x3F800000)):
        found = EMULATED.copy()
        found[place] = bits
        with pytest.raises(AssertionError, match="on the GPU and on the emulator"):
            compare(monkeypatch, body, found)


def test_approximations_have_their_documented_error(monkeypatch):
    compare(monkeypatch, "ex2.approx.ftz.f32 {0}", EMULATED + np.array([1, 0, 0], np.uint32))
    assert gpu.compared["ex2.approx.ftz.f32 {0}"]["different"] == 1


def test_payloads_of_nan(monkeypatch):
    """Those of double are the host's; those of float are one."""
    two = np.array([0x7FF8000000000000, 0xFFF8000000000000], np.uint64)
    compare(monkeypatch, "add.f64 {0}", two[::-1], "f64", two)


def test_refused_and_written(monkeypatch, tmp_path):
    compare(monkeypatch, "add.rn.f32.bf16 {0}", None)
    monkeypatch.setattr(gpu.torch.cuda, "get_device_name", lambda: "a GPU")
    gpu.write(tmp_path / "new" / "instructions.json")
    told = json.loads((tmp_path / "new" / "instructions.json").read_text())
    assert told["gpu"] == "a GPU" and "not an instruction" in told["instructions"]["add.rn.f32.bf16 {0}"]["refused"]
