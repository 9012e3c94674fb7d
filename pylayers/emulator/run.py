"""Anybody's kernel on the emulator: CUDA source, PTX, or a Triton function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from . import compiler, gpus, toolkit, triton
from .faults import LaunchError
from .launch import Argument, Counts, Kernel, bytes_of, module_of
from .memory import GlobalMemory


def _compile(tools: toolkit.Toolkit, source: Path | str, architecture: int, options: tuple[str, ...], folder: Path) -> None:
    if isinstance(source, str):
        (folder / "kernel.cu").write_text(f'#line 1 "kernel.cu"\n{source}')  # the name that faults tell
        source = folder / "kernel.cu"
    target = f"arch=compute_{architecture},code=compute_{architecture}"
    compiler.run([tools.nvcc, "-std=c++17", "-lineinfo", "-gencode", target, *options, "--ptx", source, "-o", folder / "kernel.ptx"])


def ptx_of(source: Path | str, architecture: int, options: Sequence[str] = ()) -> str:
    """PTX that nvcc makes of CUDA source, given as text or as the path of a file. Kept for the next time.

    Raises:
        RuntimeError: there is no nvcc, or it refuses the source; its first errors are told.
    """
    tools = toolkit.find()
    mark = compiler.fingerprint(source, *options, architecture, tools.version)
    name = f"source-{architecture}-{mark}"
    make = partial(_compile, tools, source, architecture, tuple(options))
    return (compiler.cached(name, make) / "kernel.ptx").read_text()


def kernel_of(kernel: Kernel | str | Path, name: str | None, gpu: gpus.Gpu) -> Kernel:
    if isinstance(kernel, Kernel):
        return kernel
    if isinstance(kernel, str) and ".version" in kernel and ".target" in kernel:
        return module_of(kernel).kernel(name)
    if isinstance(kernel, Path) and kernel.suffix == ".ptx":
        return module_of(kernel.read_text()).kernel(name)
    return module_of(ptx_of(kernel, gpu.architecture)).kernel(name)


def _run_triton(kernel: Any, grid, arguments: Sequence, constants: Mapping[str, Any], gpu: gpus.Gpu, order) -> Counts:
    given = [one.array if isinstance(one, Argument) else one for one in arguments]
    found, parameters, size = triton.launch_of(gpu, kernel, grid, given, constants)
    found.check_limits(gpu, size)
    memory = GlobalMemory()
    for one in arguments:
        if isinstance(one, Argument) or hasattr(one, "data_ptr"):
            bytes_of(one, memory)
    options = dict(dynamic_shared=size.dynamic_shared, cluster=size.cluster, order=order)
    return found.launch_raw(size.grid, size.block, parameters, memory, **options)


def run(
    kernel: Kernel | str | Path | Any,
    grid: int | Sequence[int],
    block: int | Sequence[int] | None,
    arguments: Sequence,
    *,
    name: str | None = None,
    constants: Mapping[str, Any] | None = None,
    device: str = "h200",
    order: int | Sequence[int] = (0, 1, 2),
    dynamic_shared: int = 0,
    cluster: int | Sequence[int] | None = None,
) -> Counts:
    """Runs a kernel of your own on host memory, with every check of the emulator.

    Args:
        kernel: CUDA source or PTX, as text or as the path of a file; or a function under @triton.jit, in a module that can be
            imported, which is compiled as for a GPU also where TRITON_INTERPRET=1.
        grid, block: one to three sizes. `block` is threads; None for Triton, which has num_warps.
        arguments: one for each parameter: arrays or CPU tensors, `output(array)` for one that the kernel is to fill,
            `constant(array)` for one that it may not write to, and NumPy scalars of the parameter's type.
        name: of the kernel, if there are several; part of the mangled name is enough.
        constants: for Triton: constexpr arguments by name, and options such as num_warps.
        device: the GPU to compile for, whose limits the launch is held to.
        order: of blocks and warps; several must leave the same bits.
        dynamic_shared: bytes. What exceeds the default is allowed as by cudaFuncSetAttribute.
        cluster: blocks of a cluster, if the kernel does not state it itself.

    Returns:
        Counts of bytes, sectors, bank conflicts, shuffles, barriers and operations.

    Raises:
        Fault: the kernel did what it must not do; the sentence names kernel, block, thread and source line.
        PtxError, LaunchError: it cannot be run so.
        RuntimeError: CUDA source, but no nvcc.
    """
    gpu = gpus.find(device)
    if hasattr(kernel, "fn"):
        return _run_triton(kernel, grid, arguments, constants or {}, gpu, order)
    if block is None:
        raise LaunchError("a CUDA kernel needs `block`, the threads of a block")
    found = kernel_of(kernel, name, gpu)
    if cluster is None:
        cluster = found.directives.get("reqnctapercluster") or (1, 1, 1)
    return found.launch(grid, block, arguments, dynamic_shared=dynamic_shared, cluster=cluster, order=order, gpu=gpu)
