"""Launches by hand: arguments, limits, missing compilers, and a cache that several processes fill."""

import multiprocessing
import os
import re

import numpy as np
import pytest
import torch
from pylayers import emulator
from pylayers.emulator import LaunchError, PtxError, compiler, toolkit

SCALE = """.version 8.0
.target sm_80
.address_size 64
.visible .entry scale(.param .u64 y, .param .u64 x, .param .f32 factor, .param .u32 count)
{
  .reg .b32 %r<4>; .reg .b64 %rd<6>; .reg .f32 %f<4>; .reg .pred %p;
  mov.u32 %r1, %tid.x;
  ld.param.u32 %r2, [count];
  setp.ge.u32 %p, %r1, %r2;
  @%p bra DONE;
  ld.param.u64 %rd1, [y];
  ld.param.u64 %rd2, [x];
  ld.param.f32 %f1, [factor];
  mul.wide.u32 %rd3, %r1, 4;
  add.s64 %rd4, %rd1, %rd3;
  add.s64 %rd5, %rd2, %rd3;
  ld.global.f32 %f2, [%rd5];
  mul.f32 %f3, %f2, %f1;
  st.global.f32 [%rd4], %f3;
DONE:
  ret;
}
"""


def arguments(count=40):
    x, y = torch.arange(40.0).numpy(), torch.full((40,), float("nan")).numpy()  # torch aligns to 64 bytes
    return [emulator.output(y), emulator.constant(x), np.float32(2), np.uint32(count)]


def test_ptx_runs_and_is_counted():
    given = arguments()
    counts = emulator.run(SCALE, 1, 64, given)
    np.testing.assert_array_equal(given[0].array, 2 * given[1].array)
    assert (counts.load_bytes, counts.store_bytes, counts.flops, counts.launches) == (160, 160, 40, 1)
    assert counts.load_sectors == 5 and counts.load_requests in (2, 3)  # with 64 bytes, but perhaps not 128


def test_tensors_are_arguments():
    y, x = torch.empty(40), torch.arange(40.0)
    emulator.run(SCALE, 1, 64, [emulator.output(y), x, np.float32(3), np.uint32(40)])
    assert torch.equal(y, 3 * x)


@pytest.mark.parametrize(
    "given,message",
    [
        (arguments()[:3], "takes 4 arguments, got 3"),
        ([*arguments()[:2], np.float64(2), np.uint32(40)], "parameter factor has 4 bytes, .* has 8"),
        ([*arguments()[:2], 2.0, np.uint32(40)], "NumPy scalars or bytes, got float"),
    ],
)
def test_wrong_arguments(given, message):
    with pytest.raises(LaunchError, match=message):
        emulator.run(SCALE, 1, 64, given)


@pytest.mark.parametrize(
    "grid,block,options,message",
    [
        (0, 64, {}, "at least 1"),
        (1, 2048, {}, "1024"),
        ((1, 70000), 64, {}, "grid size y is 70000, h200 takes 1 to 65535"),
        (1, 64, {"dynamic_shared": 300_000}, "300000 bytes of shared memory, h200 takes 232448"),
        (1, 64, {"dynamic_shared": 150_000, "device": "l4"}, "150000 bytes of shared memory, l4 takes 101376"),
        (3, 64, {"cluster": 2}, "no multiple of the cluster's 2"),
        (2, 64, {"cluster": 2, "device": "a100"}, "a cluster has 2 blocks, a100 takes 1"),
    ],
)
def test_limits(grid, block, options, message):
    with pytest.raises(LaunchError, match=re.escape(message)):
        emulator.run(SCALE, grid, block, arguments(), **options)


def test_unknown_kernel_and_gpu():
    with pytest.raises(PtxError, match="no kernel 'other' among scale"):
        emulator.run(SCALE, 1, 64, arguments(), name="other")
    with pytest.raises(ValueError, match="no GPU 'gtx'; there are a100"):
        emulator.run(SCALE, 1, 64, arguments(), device="gtx")


def test_broken_ptx():
    with pytest.raises(PtxError, match="unsupported instructions: frobnicate.f32"):
        emulator.run(SCALE.replace("mul.f32 ", "frobnicate.f32 "), 1, 64, arguments())
    with pytest.raises(PtxError, match="version"):
        emulator.run(SCALE.replace("8.0", "99.0"), 1, 64, arguments())
    with pytest.raises(PtxError):
        emulator.run(SCALE[:-30], 1, 64, arguments())
    with pytest.raises(PtxError, match="8 bytes where the instruction takes 4"):
        emulator.run(SCALE.replace("mul.f32 %f3, %f2, %f1", "mul.f32 %f3, %f2, %rd1"), 1, 64, arguments())


ONE_INSTRUCTION = """.version 8.0
.target sm_80
.address_size 64
.visible .entry test(.param .u64 x)
{{
  .reg .b32 %r<4>; .reg .b64 %rd<4>; .reg .f32 %f<4>; .reg .pred %p<4>;
targets: .branchtargets done;
  {};
done:
  ret;
}}
"""

OPERANDS_TO_DROP = (
    "add.f32 %f1, %f1, %f1", "max.f32 %f1, %f1, %f1", "fma.rn.f32 %f1, %f1, %f1, %f1", "setp.lt.f32 %p1, %f1, %f1", "mov.u32 %r1, %r1",
    "selp.b32 %r1, %r1, %r1, %p1", "ld.global.f32 %f1, [%rd1]", "ld.global.v4.f32 {%f1, %f2, %f3, %f1}, [%rd1]",
    "st.global.f32 [%rd1], %f1", "shfl.sync.bfly.b32 %r1, %r1, %r1, %r1, -1", "vote.sync.any.pred %p1, %p1, -1",
    "atom.global.add.u32 %r1, [%rd1], %r1", "atom.global.cas.b32 %r1, [%rd1], %r1, %r1", "red.global.add.f32 [%rd1], %f1",
    "cp.async.ca.shared.global [%r1], [%rd1], 16", "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r1}, [%r1]", "cvt.rn.f32.u32 %f1, %r1",
    "bar.red.or.pred %p1, 0, %p1", "bar.warp.sync -1", "bra done", "brx.idx %r1, targets", "call done",
    "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%f1, %f1, %f1, %f1}, {%r1, %r1, %r1, %r1}, {%r1, %r1}, {%f1, %f1, %f1, %f1}",
)  # fmt: skip


@pytest.mark.parametrize("instruction", OPERANDS_TO_DROP, ids=lambda text: text.split()[0])
def test_missing_operands(instruction):
    """Refused when the kernel is loaded: the engine would take what lies behind for the operand."""
    cut = instruction.rpartition(",")[0] or instruction.split()[0]
    cut += "}" * (cut.count("{") - cut.count("}"))
    with pytest.raises(PtxError, match="operand|call"):
        emulator.run(ONE_INSTRUCTION.format(cut), 1, 64, arguments()[:1])


def test_broken_source():
    with pytest.raises(RuntimeError, match="nvcc failed: .*kernel.cu.*error"):
        emulator.run("__global__ void broken() { nonsense; }", 1, 64, [])


def test_missing_compilers(monkeypatch, tmp_path):
    monkeypatch.setattr(toolkit, "_homes", lambda: iter([tmp_path]))
    with pytest.raises(RuntimeError, match=r"pip install torch-pylayers\[emulator\]"):
        emulator.run("__global__ void kernel() {}", 1, 64, [])
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(RuntimeError, match="needs a C\\+\\+ compiler"):
        compiler.cxx()


def _fill(folder: str) -> bytes:
    os.environ["PYLAYERS_CACHE"] = folder

    def make(place):
        for part in range(50):
            with open(place / "data", "ab") as file:
                file.write(bytes([part]) * 1000)
        (place.parent / f"made-by-{os.getpid()}").touch()

    return (compiler.cached("shared", make) / "data").read_bytes()


def test_cache_is_filled_once_and_whole(tmp_path):
    with multiprocessing.get_context("fork").Pool(4) as pool:
        results = pool.map(_fill, [str(tmp_path)] * 8)
    assert set(results) == {b"".join(bytes([part]) * 1000 for part in range(50))}
    assert len(list(tmp_path.glob("made-by-*"))) == 1


def test_failed_fill_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("PYLAYERS_CACHE", str(tmp_path))

    def fail(place):
        (place / "half").touch()
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        compiler.cached("broken", fail)
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == []
