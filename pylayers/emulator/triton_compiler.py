"""Compiles Triton kernels for a GPU that is not there: `main`, in a process of its own.

Where it is asked from, Triton may be interpreting, or a driver of real GPUs at work: both are chosen for a whole process.
Requests and answers are pickled, each after its length in 8 bytes.
"""

from __future__ import annotations

import importlib
import os
import pickle
import sys
from dataclasses import dataclass
from typing import Any, BinaryIO


@dataclass(frozen=True)
class Pointer:
    """A tensor, as far as the compiler asks for it."""

    dtype: Any
    aligned: bool  # to 16 bytes

    def data_ptr(self) -> int:
        return 0 if self.aligned else 1


@dataclass(frozen=True)
class Request:
    architecture: int
    module: str
    kernel: str
    arguments: tuple  # Pointer for tensors
    named: tuple  # (name, value): constexprs and options


@dataclass(frozen=True)
class Compiled:
    """A compiled kernel. Its parameters are the arguments whose type is not "constexpr", then pointers to scratch memory."""

    name: str
    ptx: str
    types: dict[str, str]  # of each argument
    num_warps: int
    shared: int
    cluster: tuple[int, int, int]
    scratch: int  # bytes that a program wants to be allocated


def send(stream: BinaryIO, message: object) -> None:
    data = pickle.dumps(message)
    stream.write(len(data).to_bytes(8, "little") + data)
    stream.flush()


def receive(stream: BinaryIO) -> Any:
    """EOFError at the end."""
    length = int.from_bytes(stream.read(8), "little")
    if not length:
        raise EOFError
    return pickle.loads(stream.read(length))


class Offline:
    """Stands in for Triton's driver: names the architecture to compile for."""

    architecture = 0

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.architecture, 32)

    def get_current_device(self) -> int:
        return self.architecture

    def get_current_stream(self, device: int) -> int:
        return 0


def compile_kernel(driver: Offline, request: Request) -> Compiled:
    driver.architecture = request.architecture
    kernel = getattr(importlib.import_module(request.module), request.kernel)
    built = kernel.run(*request.arguments, grid=(1,), warmup=True, **dict(request.named))
    facts = built.metadata
    return Compiled(
        name=facts.name,
        ptx=built.asm["ptx"],
        types=dict(built.src.signature),
        num_warps=facts.num_warps,
        shared=facts.shared,
        cluster=(facts.num_ctas, 1, 1),
        scratch=facts.global_scratch_size,
    )


def stop_at_ptx() -> None:
    """Machine code, which takes as long as all before it, runs nowhere here."""
    from triton.backends.nvidia.compiler import CUDABackend

    CUDABackend.make_cubin = lambda self, source, *others: b""


def main() -> None:
    """Answers with Compiled, or with an exception, until the input ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what is printed must not get among the answers
    from triton.runtime import driver as drivers

    driver = Offline()
    drivers.set_active(driver)
    stop_at_ptx()
    while True:
        try:
            request = receive(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer = compile_kernel(driver, request)
        except Exception as error:  # noqa: BLE001  (it is raised where the kernel was asked for)
            answer = RuntimeError(f"triton: {request.kernel}: {type(error).__name__}: {error}")
        send(answers, answer)
