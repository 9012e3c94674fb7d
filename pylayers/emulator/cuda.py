"""The CUDA kernels for emulation: csrc/cuda compiled to host code and PTX, linked with a stand-in for the CUDA runtime.

The launchers are the real ones, host code included. What they launch arrives here as a `Launch`, by the kernel's name.
"""

from __future__ import annotations

import ctypes
import re
import shutil
from collections.abc import Callable, Sequence
from ctypes import CFUNCTYPE, POINTER, Structure, c_char_p, c_int, c_int32, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from . import compiler, sources, toolkit
from .gpus import Gpu

HERE = Path(__file__).parent
STAND_IN = HERE / "native/cudart"
HOST_FLAGS = ("-O1", "-fPIC", "-fvisibility=hidden")


def kernel_arguments(csrc: Path | None = None) -> dict[str, list[str]]:
    """The kernels of ops.def, with the names of their arguments."""
    text = ((csrc or sources.csrc()) / "ops.def").read_text()
    found = re.findall(r"^KERNEL\((\w+), ([^)]*)\)", text, re.MULTILINE)
    return {name: [one.split()[-1] for one in arguments.split(",")] for name, arguments in found}


def _options(csrc: Path | None) -> list[str]:
    """So that sources find our headers; and the ops.def of a package with a csrc of its own."""
    return [f"-I{sources.csrc()}"] if csrc is None else [f"-I{csrc}", f"-I{sources.csrc()}", "-DPYLAYERS_OPS=<ops.def>"]


def _compile_kernels(tools: toolkit.Toolkit, architecture: int, csrc: Path | None, source: Path, folder: Path) -> None:
    """An object that holds launchers, and beside it the PTX, which is an intermediate file of nvcc."""
    kept = folder / "kept"
    kept.mkdir()
    target = f"arch=compute_{architecture},code=compute_{architecture}"
    host = [f"-Xcompiler={flag}" for flag in HOST_FLAGS]
    compiler.run(
        [tools.nvcc, "-std=c++17", "-lineinfo", "-cudart", "none", "-gencode", target, *host, *_options(csrc)]
        + ["--keep", "--keep-dir", kept, "-c", source, "-o", folder / f"{source.stem}.o"]
    )
    (kept / f"{source.stem}.ptx").replace(folder / f"{source.stem}.ptx")
    shutil.rmtree(kept)


def _compile_stand_in(tools: toolkit.Toolkit, csrc: Path | None, source: Path, folder: Path) -> None:
    options = [f"-I{tools.include}", *_options(csrc)]
    compiler.run([compiler.cxx(), "-std=c++17", *HOST_FLAGS, *options, "-c", source, "-o", folder / f"{source.stem}.o"])


def _object(tools: toolkit.Toolkit, architecture: int, csrc: Path | None, source: Path) -> Path:
    """The folder with a compiled source: each is kept for itself, so that a change of one compiles one."""
    flags = (tools.version, compiler.cxx(), HOST_FLAGS, Path(__file__), *(sources.of_package(csrc) if csrc else ()))
    if source.suffix == ".cu":
        mark = compiler.fingerprint(architecture, *flags, *sources.with_includes(source))
        make = partial(_compile_kernels, tools, architecture, csrc, source)
        return compiler.cached(f"cuda-{source.stem}-{architecture}-{mark}", make)
    declared = sources.with_includes(sources.csrc() / "kernels.h")
    mark = compiler.fingerprint(*flags, *declared, *sorted(STAND_IN.iterdir()))
    return compiler.cached(f"cudart-{source.stem}-{mark}", partial(_compile_stand_in, tools, csrc, source))


def _link(objects: list[Path], folder: Path) -> None:
    files = [path for one in objects for path in sorted(one.glob("*.o"))]
    compiler.run([compiler.cxx(), "-shared", "-Wl,-Bsymbolic,-z,defs", *files, "-o", folder / "launchers.so"])
    for path in (path for one in objects for path in one.glob("*.ptx")):
        shutil.copy(path, folder)


def build(architecture: int, csrc: Path | None = None, only: Sequence[str] | None = None) -> Path:
    """The folder with launchers.so and the PTX of each source, or of those named. RuntimeError if there is no nvcc."""
    tools = toolkit.find()
    kernels = sorted((csrc or sources.csrc()).glob("cuda/*.cu"))
    if unknown := sorted(set(only or ()) - {source.stem for source in kernels}):
        raise ValueError(f"emulator: there is no csrc/cuda/{unknown[0]}.cu")
    kernels = [source for source in kernels if only is None or source.stem in only]
    to_compile = [*kernels, *sorted(STAND_IN.glob("*.cpp"))]
    objects = compiler.each(partial(_object, tools, architecture, csrc), to_compile)
    mark = compiler.fingerprint(*(one.name for one in objects))
    return compiler.cached(f"cuda-{architecture}-{mark}", partial(_link, objects))


class _Gpu(Structure):
    _fields_ = [
        *((name, c_int32) for name in ("major", "minor", "multiprocessors", "threads_per_block")),
        *((name, c_int32) for name in ("threads_per_multiprocessor", "blocks_per_multiprocessor")),
        ("block_size", c_int32 * 3),
        ("grid_size", c_int32 * 3),
        *((name, c_int32) for name in ("registers", "warp_size", "shared_per_block", "shared_per_block_opt_in")),
        *((name, c_int32) for name in ("shared_per_multiprocessor", "l2_bytes")),
    ]


class _Launch(Structure):
    _fields_ = [
        ("kernel", c_char_p),
        *((name, c_uint32 * 3) for name in ("grid", "block", "cluster")),
        *((name, c_uint64) for name in ("dynamic_shared", "granted_shared")),
        ("large_clusters", c_int32),
        ("arguments", POINTER(c_void_p)),
    ]


class _Properties(Structure):
    _fields_ = [("static_shared", c_int32), ("threads_per_block", c_int32)]


class _Callbacks(Structure):
    _fields_ = [
        ("launch", CFUNCTYPE(c_int, POINTER(_Launch))),
        ("properties", CFUNCTYPE(c_int, c_char_p, POINTER(_Properties))),
        ("write", CFUNCTYPE(c_int, c_void_p, c_void_p, c_uint64)),
    ]


class _Launcher(Structure):
    _fields_ = [("name", c_char_p), ("address", c_void_p)]


@dataclass(frozen=True)
class Launch:
    """What a launcher asked for. A cluster of zeros: as the kernel was compiled."""

    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    cluster: tuple[int, int, int]
    dynamic_shared: int
    granted_shared: int
    large_clusters: bool
    arguments: POINTER(c_void_p)  # the addresses of the kernel's parameters

    def pack(self, parameters: list[tuple[str, int, int, int]]) -> bytes:
        """The kernel's parameters as it finds them: (name, size, alignment, offset) of each are given."""
        packed = bytearray(max((offset + size for _, size, _, offset in parameters), default=0))
        for index, (_, size, _, offset) in enumerate(parameters):
            packed[offset : offset + size] = ctypes.string_at(self.arguments[index], size)
        return bytes(packed)


def _launch(asked: _Launch) -> Launch:
    sizes = (tuple(getattr(asked, name)) for name in ("grid", "block", "cluster"))
    shared = (asked.dynamic_shared, asked.granted_shared)
    return Launch(asked.kernel.decode(), *sizes, *shared, bool(asked.large_clusters), asked.arguments)


def _gpu(gpu: Gpu) -> _Gpu:
    major, minor = gpu.capability
    others = {name: getattr(gpu, name) for name, _ in _Gpu._fields_[2:] if not isinstance(getattr(gpu, name), tuple)}
    sizes = {name: (c_int32 * 3)(*getattr(gpu, name)) for name in ("block_size", "grid_size")}
    return _Gpu(major=major, minor=minor, **others, **sizes)


class Launchers:
    """The compiled launchers of one GPU's architecture.

    Attributes:
        addresses: the launcher of each kernel of ops.def that the backend has, to be called from C++.
        ptx: the text of each compiled source, by the name of the source.
    """

    def __init__(self, gpu: Gpu, csrc: Path | None = None, only: Sequence[str] | None = None):
        folder = build(gpu.architecture, csrc, only)
        self.ptx = {path.stem: path.read_text() for path in sorted(folder.glob("*.ptx"))}
        self._text_of = {name: text for text in self.ptx.values() for name in re.findall(r"\.entry\s+([\w$]+)", text)}
        self._library = ctypes.CDLL(str(folder / "launchers.so"))
        table = ctypes.cast(self._library.emulator_launchers, POINTER(_Launcher))
        self.addresses = {}
        index = 0
        while table[index].name:
            if table[index].address:
                self.addresses[table[index].name.decode()] = table[index].address
            index += 1

    def ptx_of(self, kernel: str) -> str:
        """The text that a kernel is in, by its mangled name."""
        return self._text_of[kernel]

    def serve(
        self,
        gpu: Gpu,
        launch: Callable[[Launch], None],
        properties: Callable[[str], tuple[int, int]],
        write: Callable[[int, int | None, int], None],
    ) -> None:
        """From now on these are asked. What they raise is theirs to keep: the launcher sees an error code.

        Args:
            launch: runs a kernel.
            properties: its static shared bytes, and the threads of a block that it was compiled for, 0 if not stated.
            write: told of a write by the runtime: address, the address of what is copied or None, bytes.
        """

        def code(function: Callable, *arguments) -> int:
            try:
                function(*arguments)
            except BaseException:  # noqa: BLE001  (nothing may pass through C++)
                return 1
            return 0

        def fill(name: bytes, out) -> None:
            out.contents.static_shared, out.contents.threads_per_block = properties(name.decode())

        kinds = [kind for _, kind in _Callbacks._fields_]
        self._callbacks = _Callbacks(
            kinds[0](lambda asked: code(lambda: launch(_launch(asked.contents)))),
            kinds[1](lambda name, out: code(fill, name, out)),
            kinds[2](lambda to, source, count: code(write, to, source, count)),
        )
        self._library.emulator_set_gpu(ctypes.byref(_gpu(gpu)))
        self._library.emulator_set_callbacks(ctypes.byref(self._callbacks))
