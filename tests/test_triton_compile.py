"""Compiles the Triton kernels for real GPUs, which takes none: spills and narrow accesses show up in what comes out.

A process of its own does it (run this file to see the report), since Triton's interpreter is chosen at import.
"""
import collections
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile

import pytest

EVERY, OTHERS = 90, (80, 100)  # the architecture with every size, and both dtypes; others have one of each kernel
DTYPES = ("bfloat16", "float32")
UNDERSTOOD = "float64"  # no more than that Triton's frontend takes it: the machine code of a few kernels would take minutes
SHARED_MEMORY = 99 * 1024  # of a block, on the architecture that has least
WIDE_LOAD = re.compile(r"ld\.global(\.\w+)*\.v4\.b32|cp\.async\.cg\.shared\.global")
WIDE_STORE = re.compile(r"st\.global(\.\w+)*\.v4\.b32")
# Less than a number a thread, or rows of a triangle, or sums of a group's channels, which begin anywhere; drawn numbers come from
# nowhere.
FEW_LOADED = {"bilinear.outer_kernel", "halve_until.exponent_kernel", "two_sided_uniform.fill_kernel"}
FEW_LOADED |= {f"group_norm.{name}_kernel" for name in ("merge", "means")}
FEW_LOADED |= {f"tensor_reduction.{name}_kernel" for name in ("outer", "rows")}
FEW_STORED = {"bilinear.left_sum_kernel", "bilinear.right_sum_kernel", "parts.sum_parts_kernel"}
FEW_STORED |= {"cross_entropy.forward_kernel", "pointwise_loss.sums_kernel"}
FEW_STORED |= {f"centered.{name}_kernel" for name in ("row_sums", "column_sums")}
FEW_STORED |= {f"halve_until.{name}_kernel" for name in ("sums", "exponent")}
FEW_STORED |= {f"group_norm.{name}_kernel" for name in ("moments", "sums", "merge", "means")}
FEW_STORED |= {f"tensor_reduction.{name}_kernel" for name in ("outer", "columns", "rows")}

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


class Understood(Exception):
    """Instead of what comes behind the frontend."""


def launch_all(dtype, every):
    """Every kernel at sizes that its fast path is made for, or at one of them each."""
    import torch
    from pylayers import triton_kernels as kernels

    def matrix(*shape, dtype=getattr(torch, dtype)):
        return torch.empty(shape, dtype=dtype, device="meta")

    acc = torch.float64 if dtype == "float64" else torch.float32
    rows, parts = 4096, 264
    dims = (1024, 8192, 65536) if every else (1024, 65536)
    for dim in dims:
        x, weight, rstd = matrix(rows, dim), matrix(dim), matrix(rows, dtype=acc)
        kernels.rms_norm_forward(x, rstd, x, weight, 1e-6, 0.0)
        partial, both = (matrix(count * parts, dim, dtype=acc) for count in (1, 2))
        kernels.rms_norm_backward(x, weight, partial, x, x, weight, rstd, 0.0)
        kernels.layer_norm_forward(x, rstd, rstd, x, weight, weight, 1e-5)
        kernels.layer_norm_backward(x, weight, weight, both, x, x, weight, rstd, rstd)
        if dim == 8192:  # wide or not, one is enough of what follows
            continue
        stream = matrix(rows, dim, dtype=acc)
        kernels.add_rms_norm_forward(x, stream, rstd, x, stream, weight, 1e-6, 0.0)
        kernels.add_rms_norm_backward(x, stream, weight, partial, x, stream, stream, weight, rstd, 0.0)
        kernels.add_layer_norm_forward(x, x, rstd, rstd, x, x, weight, weight, 1e-5)
        kernels.add_layer_norm_backward(x, None, weight, weight, both, x, x, x, weight, rstd, rstd)
    gate, up = matrix(rows, 8192).chunk(2, 1)
    y = matrix(rows, 4096)
    for activation in (1, 2, 3, 4) if every else (4,):
        kernels.gate_forward(y, gate, up, activation)
        kernels.gate_backward(gate, up, y, gate, up, activation)
    kernels.gate_forward(y, y, None, 1)
    kernels.gate_backward(y, None, y, y, None, 1)
    for dim in dims:
        x, mask = matrix(rows, dim), matrix(1, 4, rows // 4, dim)
        allowed = torch.empty((1, 4, rows // 4, dim), dtype=torch.bool, device="meta")
        for log in (0, 1) if every else (0,):
            kernels.softmax_forward(x, x, log)
            kernels.softmax_backward(x, x, x, log)
        kernels.softmax_masked_forward(x, x, mask, None, 0.5, rows // 4, 1)
        kernels.softmax_masked_forward(x, x, None, allowed, 0.5, rows // 4, 0)
        kernels.softmax_masked_backward(x, x, x, 0.5, rows // 4, 1)
        columns = x.view(4, rows // 4, dim)
        kernels.softmax_columns_forward(columns, columns, 0)
        kernels.softmax_columns_backward(columns, columns, columns, 1)
    for dim in (1024, 32000) if every else (32000,):
        x, weight, target = matrix(rows, dim), matrix(dim), matrix(rows, dtype=torch.int64)
        for t, soft, w, smoothing, softcap in ((target, None, None, 0.0, 0.0), (target, None, weight, 0.1, 30.0), (None, x, None, 0.0, 0.0)):
            kernels.cross_entropy_forward(rstd, rstd, rstd, rstd, x, t, soft, w, -100, smoothing, 1e-4, softcap)
            kernels.cross_entropy_backward(x, rstd, x, t, soft, w, rstd, rstd, rstd, -100, smoothing, softcap)
    x, weight = matrix(rows, 1024), matrix(1, 1024).expand(rows, 1024)
    for kind in (0, 1, 2, 3) if every else (1,):
        kernels.pointwise_loss_forward(matrix(1), matrix(parts, 1, dtype=acc), x, x, None, None, kind, rows)
        kernels.pointwise_loss_forward(x, None, x, x, weight, weight, kind, 1)
        kernels.pointwise_loss_backward(x, x if every else None, matrix(1), x, x, None, None, kind, rows)
    kernels.pointwise_loss_backward(x, x, x, x, x, weight, weight, 1, 1)
    for dim in (1024, 65536):
        x, weight, mean = matrix(rows, dim), matrix(dim), matrix(rows, dtype=acc)
        split = matrix(rows, 4, dtype=acc) if dim > 16384 else None
        kernels.centered_forward(x, mean, split, x, weight, weight, 0)
        kernels.centered_backward(x, weight, weight, matrix(2, parts, dim, dtype=acc), mean, split, x, x, weight, mean, 0)
    x, weight, mean = matrix(rows, 1024), matrix(1024), matrix(1, 1024, dtype=acc)
    partial = matrix(2, 64, 1024, dtype=acc)
    kernels.centered_forward(x, mean, partial[0], x, weight, weight, rows)
    kernels.centered_backward(x, weight, weight, partial, mean, None, x, x, weight, mean, rows)
    for count in (64, 1024):
        mean = matrix(rows // count, 1024, dtype=acc)
        kernels.centered_forward(x, mean, None, x, weight, weight, count)
        kernels.centered_backward(x, weight, weight, partial[:, : rows // count], None, None, x, x, weight, mean, count)
    weight, statistic = matrix(320), matrix(64, dtype=acc)
    for shape, last, shares in (((2, 320, 256), 0, 0), ((2, 320, 16384), 0, 2), ((2, 4096, 320), 1, 128)):
        x, partial = matrix(*shape), matrix(2 * 2 * max(shares, 1), 320, dtype=acc)
        for activation in (0, 4) if every else (4,):
            kernels.group_norm_forward(x, statistic, statistic, partial if shares else None, x, weight, weight, 32, last, 1e-5, activation)
            kernels.group_norm_backward(x, weight, weight, partial, statistic, x, x, weight, weight, statistic, statistic, 32, last, activation)
    whole, k = matrix(1, 1 << 22), matrix(1, dtype=acc)
    kernels.halve_until_forward(whole, k, matrix(512, 2, dtype=acc), whole, 1.0)
    x, weight, bias, y = matrix(rows, 2048), matrix(1024, 2048), matrix(1024), matrix(rows, 1024)
    gelu = 2
    kernels.linear_forward(y, y, x, weight, bias, 1.0, gelu)
    kernels.linear_forward(x, None, y, weight.T, None, 1.0, 0)
    kernels.linear_forward(weight, None, y.T, x.T, None, 1.0, 0)
    kernels.linear_epilogue_forward(y, y, bias, 1.0, gelu)
    kernels.linear_epilogue_backward(y, bias, matrix(parts, 1024, dtype=acc), y, y, bias, 1.0, gelu)
    spectrum = matrix(rows, 8192, dtype=acc)  # of pairs, in either dtype
    kernels.leading_fourier_backward(spectrum, spectrum[:, :4096], 1.0, 8190)
    kernels.dropout_add_forward(y, y, y, matrix(1, dtype=torch.int64), 0, 0.1)
    kernels.dropout_add_forward(y, gate, up, None, 7, 0.1)
    kernels.dropout_add_backward(y, up, None, 7, 0.1)
    kernels.two_sided_uniform(matrix(rows * 2048), 77, 5.0, 10.0, 0.5)
    q, k, table = matrix(4, 1024, 32, 128), matrix(4, 1024, 8, 128), matrix(4, 1024, 64, dtype=acc)
    for pairs in (64, 32):  # of all features, of half of them
        for interleaved in (0, 1) if every else (0,):
            kernels.rotary(q, k, q, k, table[..., :pairs], table[..., :pairs], None, interleaved, 0)
    kernels.rotary(q, None, q, None, table, table, matrix(4, 1024, dtype=torch.int64), 0, 1)
    left, right, z = matrix(rows, 64), matrix(rows, 256), matrix(rows, 64 * 256)
    sums, before = matrix(rows, 256, dtype=acc), matrix(rows, 256, dtype=acc)
    kernels.bilinear_outer(z, left, right)
    kernels.bilinear_contract(left, None, None, z, None, right, left[0])
    kernels.bilinear_contract(None, sums, before, z, left, None, None)
    kernels.tensor_reduction_outer(z, right, 0, 64)
    kernels.tensor_reduction_contract(sums, before, z, right, 0, 64)


def resources(cubin):
    """Bytes and registers of a compiled kernel, by the names that cuobjdump gives them."""
    import triton
    tool = os.path.join(os.path.dirname(triton.__file__), "backends", "nvidia", "bin", "cuobjdump")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        run = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    return {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", run.stdout)}


def main(architectures):
    import triton
    from pylayers.emulator.triton_compiler import Offline
    from triton.runtime.jit import JITFunction
    from triton.backends.nvidia import compiler
    driver, report, understood, compile_or_run = Offline(), [], set(), JITFunction.run
    triton.runtime.driver.set_active(driver)
    triton.knobs.compilation.always_compile = True  # what comes from the cache shows no calls
    compiled, calls, link = set(), set(), compiler.llvm.link_extern_libs

    def link_and_note(module, paths):
        calls.update(re.findall(r"call .*@(__nv_\w+)", str(module)))
        link(module, paths)

    compiler.llvm.link_extern_libs = link_and_note
    lower = compiler.CUDABackend.make_ttgir

    def lower_or_stop(*args):
        if dtype == UNDERSTOOD:
            raise Understood
        return lower(*args)

    compiler.CUDABackend.make_ttgir = staticmethod(lower_or_stop)

    def only_compile(self, *args, grid, warmup, **options):
        known = (driver.architecture, dtype, self.__module__, self.__name__, str([getattr(arg, "dtype", arg) for arg in args]), str(options))
        if known in compiled:
            return
        compiled.add(known)
        calls.clear()
        kernel = f"{self.__module__.rpartition('.')[2]}.{self.__name__}"
        try:
            built = compile_or_run(self, *args, grid=grid, warmup=True, **options)
        except Understood:
            understood.add(kernel)
            return
        ptx = built.asm["ptx"]
        report.append(dict(resources(built.asm["cubin"]), kernel=kernel, architecture=driver.architecture, dtype=dtype,
                           options=options, libdevice=sorted(calls), shared=built.metadata.shared, loads=len(WIDE_LOAD.findall(ptx)),
                           stores=len(WIDE_STORE.findall(ptx))))

    JITFunction.run = only_compile
    driver.architecture, dtype = EVERY, UNDERSTOOD
    launch_all(dtype, True)
    for driver.architecture in architectures:
        every = driver.architecture == EVERY
        for dtype in DTYPES if every else DTYPES[:1]:
            launch_all(dtype, every and dtype == DTYPES[0])
    json.dump({"kernels": report, "understood": sorted(understood)}, sys.stdout, indent=1)


@pytest.fixture(scope="module", params=[(EVERY,), pytest.param(OTHERS, marks=pytest.mark.slow)], ids=str)
def architectures(request):
    return request.param


@pytest.fixture(scope="module")
def everything(architectures):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    run = subprocess.run([sys.executable, "-P", __file__, *map(str, architectures)], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.fixture(scope="module")
def report(everything):
    return everything["kernels"]


def test_every_kernel_is_understood_in_float64(everything):
    """The interpreter takes what the compiler refuses: other types in the branches of an if, a statement behind a return."""
    assert {entry["kernel"] for entry in everything["kernels"]} == set(everything["understood"])


def test_every_kernel_compiles(report, architectures):
    from pylayers import triton_kernels
    kernels = collections.defaultdict(set)
    for entry in report:
        kernels[entry["kernel"]].add((entry["architecture"], entry["dtype"]))
    everywhere = {(architecture, dtype) for architecture in architectures for dtype in (DTYPES if architecture == EVERY else DTYPES[:1])}
    assert {kernel for kernel, places in kernels.items() if places != everywhere} == set()
    folder = os.path.dirname(triton_kernels.__file__)
    written = {f"{name[:-3]}.{kernel}" for name in os.listdir(folder) if name.endswith(".py")
               for kernel in re.findall(r"def (\w+_kernel)\(", open(os.path.join(folder, name)).read())}
    assert set(kernels) == written


def test_nothing_spills(report):
    assert [entry for entry in report if entry["STACK"] or entry["LOCAL"]] == []


def test_no_function_of_libdevice_is_called(report):
    # but the one that stands for a single instruction
    assert {call for entry in report for call in entry["libdevice"]} <= {"__nv_rsqrtf"}


def test_shared_memory_fits_every_gpu(report):
    assert [entry for entry in report if entry["shared"] > SHARED_MEMORY] == []


def has_wide_accesses(options):
    """Not a number a row, nor a narrow table with less than four numbers a thread."""
    dim = options.get("BLOCK_DIM")
    return dim is None or (dim > 1 and dim * options.get("BLOCK_ROWS", 128) >= 128 * options["num_warps"])


def test_aligned_accesses_are_16_bytes_wide(report):
    wide = [entry for entry in report if has_wide_accesses(entry["options"])]
    assert [entry for entry in wide if not entry["loads"] and entry["kernel"] not in FEW_LOADED] == []
    assert [entry for entry in wide if not entry["stores"] and entry["kernel"] not in FEW_STORED] == []


if __name__ == "__main__":
    main([int(one) for one in sys.argv[1:]] or [EVERY, *OTHERS])
