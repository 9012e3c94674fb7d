"""Triton kernels for emulation: compiled for the emulated GPU, their arguments packed as Triton's launcher does."""

from __future__ import annotations

import atexit
import inspect
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from . import gpus
from .compiler import cache_directory
from .faults import LaunchError
from .launch import Kernel, module_of, three
from .triton_compiler import Compiled, Pointer, Request, receive, send

FORMATS = {"fp32": "f", "f32": "f", "fp64": "d", "i1": "?", "u1": "?", "i8": "b", "u8": "B", "i16": "h", "u16": "H"}
FORMATS |= {"i32": "i", "u32": "I", "i64": "q", "u64": "Q"}


class Compiler:
    """The compiler's process, started when first asked. What it answered is kept."""

    def __init__(self):
        self._process: subprocess.Popen | None = None
        self._known: dict[str, Compiled] = {}  # by all of the request in words: 1 and 1.0 are the same as keys
        self._guard = threading.Lock()

    def __call__(self, request: Request) -> Compiled:
        with self._guard:
            if repr(request) not in self._known:
                self._known[repr(request)] = self._ask(request)
            return self._known[repr(request)]

    def _ask(self, request: Request) -> Compiled:
        if self._process is None or self._process.poll() is not None:
            self._process = self._start()
        send(self._process.stdin, request)
        try:
            answer = receive(self._process.stdout)
        except EOFError:
            raise RuntimeError(f"triton: the compiler's process ended while it compiled {request.kernel}") from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _start(self) -> subprocess.Popen:
        kept = [name for name in os.environ if not name.startswith("PYLAYERS_") or name == "PYLAYERS_SOURCES"]
        environment = {name: os.environ[name] for name in kept}
        environment["TRITON_INTERPRET"] = "0"
        environment["TRITON_CACHE_DIR"] = str(cache_directory() / "triton")  # what is compiled here lacks the machine code
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        command = [sys.executable, "-P", "-c", "from pylayers.emulator.triton_compiler import main; main()"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        atexit.register(self.close)
        return process

    def close(self) -> None:
        """Ends the process: it stops where its input does."""
        if self._process is not None:
            self._process.stdin.close()
            self._process.wait()
            self._process.stdout.close()
            self._process = None


compile_kernel = Compiler()


def request(architecture: int, kernel: Any, arguments: Sequence, named: Mapping[str, Any]) -> Request:
    """What to compile for a call kernel[grid](*arguments, **named). The kernel may be one that is interpreted here."""
    function = kernel.fn

    def described(one: Any) -> Any:
        return Pointer(one.dtype, one.data_ptr() % 16 == 0) if isinstance(one, torch.Tensor) else one

    values = tuple(map(described, arguments))
    return Request(architecture, function.__module__, function.__name__, values, tuple(named.items()))


def pack(
    kernel: Any, arguments: Sequence, named: Mapping[str, Any], compiled: Compiled, parameters: Sequence[tuple]
) -> bytes:
    """The parameters as the compiled kernel finds them: (name, size, alignment, offset) of each are given. Scratch pointers
    are null."""
    signature = inspect.signature(kernel.fn)
    bound = signature.bind(*arguments, **{name: value for name, value in named.items() if name in signature.parameters})
    bound.apply_defaults()
    given = [(bound.arguments[name], kind) for name, kind in compiled.types.items() if kind != "constexpr"]
    packed = bytearray(max((offset + size for _, size, _, offset in parameters), default=0))
    for (value, kind), (_, size, _, offset) in zip(given, parameters, strict=False):
        data = struct.pack("<Q", value.data_ptr()) if kind.startswith("*") else struct.pack("<" + FORMATS[kind], value)
        packed[offset : offset + size] = data
    return bytes(packed)


def launch_of(
    gpu: gpus.Gpu, kernel: Any, programs: int | Sequence[int], arguments: Sequence, named: Mapping[str, Any]
) -> tuple[Kernel, bytes, gpus.LaunchSize]:
    """What a call kernel[programs](*arguments, **named) launches on that GPU."""
    compiled = compile_kernel(request(gpu.architecture, kernel, arguments, named))
    if compiled.scratch:
        raise LaunchError(f"kernel {compiled.name}: scratch memory of a program is not emulated")
    found = module_of(compiled.ptx).kernel(compiled.name)
    blocks = tuple(size * of_cluster for size, of_cluster in zip(three(programs), compiled.cluster, strict=True))
    shared = dict(dynamic_shared=compiled.shared, granted_shared=compiled.shared)
    size = gpus.LaunchSize(blocks, (32 * compiled.num_warps, 1, 1), compiled.cluster, **shared)
    return found, pack(kernel, arguments, named, compiled, found.parameters), size
