"""`with pylayers.emulator.on():` the CUDA and Triton backends serve CPU tensors, on an emulated GPU."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any

from ..backends import emulated, interprets_triton
from ..library import doors
from . import cuda, gpus, toolkit, triton
from .faults import Fault
from .launch import Counts, Kernel, module_of
from .memory import GlobalMemory

BACKENDS = ("cuda", "triton")


def missing(backend: str) -> str:
    """What "cuda" or "triton" cannot be emulated for lack of here; "" if it can."""
    if backend == "triton":
        return "" if find_spec("triton") else "the emulator needs triton to compile the Triton kernels: pip install triton"
    try:
        toolkit.find()
    except RuntimeError as error:
        return str(error)
    return ""


@dataclass(frozen=True)
class _View:
    """A tensor that was passed to a kernel; strides in bytes."""

    name: str
    address: int
    element: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    written: bool

    @property
    def place(self) -> tuple:
        return self.address, self.element, self.sizes, self.strides

    def holds(self, address: int, nbytes: int) -> bool:
        last = sum((n - 1) * stride for n, stride in zip(self.sizes, self.strides, strict=True))
        return self.address <= address and address + nbytes <= self.address + last + self.element


@dataclass
class _Call:
    """A call of a kernel of ops.def, which may launch several."""

    kernel: str
    views: list[_View]
    memory: GlobalMemory = field(default_factory=GlobalMemory)
    problem: BaseException | None = None  # what a launch raised, which cannot pass through the launcher


@cache
def _argument_names(csrc: Path | None) -> dict[str, list[str]]:
    return cuda.kernel_arguments() | (cuda.kernel_arguments(csrc) if csrc else {})


class on:
    """Within a `with` block, `pylayers.backend("cuda")` and `("triton")` run on CPU tensors: the kernels are compiled for
    the GPU and their PTX is executed.

    Args:
        device: the GPU, one of `pylayers.emulator.gpus.GPUS`.
        order: of blocks and warps: 0 ascending, 1 descending, n ≥ 2 shuffled with that seed. With several, every launch
            is run in each of them from the same memory, and must leave the same bits.
        checks: inputs may not be written, outputs not be read before they are written, and all of an output must be
            written. Without, kernels may do with the memory of their arguments what they like.
        backends: what to emulate. By default what can be; a RuntimeError if one that is named here cannot.
        csrc: of a package with kernels of its own: the folder with its ops.def and cuda/*.cu, which are then emulated instead
            of ours.
        sources: the csrc/cuda/*.cu to compile, by their names without suffix; all by default, which takes minutes the first time.

    Attributes:
        counts: what was done, added up by kernel of `pylayers.kernels()`.

    Raises:
        ValueError: there is no such GPU or source.
        Fault: out of a call of an op within the block, if its kernel did what it must not do.
        LaunchError: likewise, if a launch goes beyond a limit of the GPU.

    Example:
        >>> with pylayers.emulator.on("a100", order=(0, 1, 2)), pylayers.backend("cuda"):
        ...     y = layer(x)
    """

    def __init__(
        self,
        device: str = "h200",
        order: int | Sequence[int] = 0,
        checks: bool = True,
        backends: Sequence[str] | None = None,
        csrc: Path | str | None = None,
        sources: Sequence[str] | None = None,
    ):
        self.gpu = gpus.find(device)
        self.order = order
        self.checks = checks
        self.csrc = None if csrc is None else Path(csrc).resolve()
        self.sources = sources
        self.counts: dict[str, Counts] = {}
        self._wanted = BACKENDS if backends is None else tuple(backends)
        self._must = backends is not None
        self._here = threading.local()  # .calls: of this thread, the innermost last
        unknown = [name for name in self._wanted if name not in BACKENDS]
        if unknown:
            raise ValueError(f"emulator: {unknown[0]!r} cannot be emulated; these can: {', '.join(BACKENDS)}")

    def __enter__(self) -> on:
        self.notes: dict[str, str] = {}
        self.emulated: list[str] = []
        self.launchers: cuda.Launchers | None = None
        for name in self._wanted:
            try:
                self._prepare(name)
                self.notes[name] = f"emulated {self.gpu.name}, compiled for {self.gpu.architecture / 10:.1f}"
                self.emulated.append(name)
            except RuntimeError as error:
                if self._must:
                    raise
                self.notes[name] = str(error)
        self._outer = _current
        _switch(self)
        return self

    def __exit__(self, *exc_info: object) -> None:
        _switch(self._outer)

    def _prepare(self, name: str) -> None:
        if name == "cuda":
            self.launchers = cuda.Launchers(self.gpu, self.csrc, self.sources)
        elif why := missing(name):
            raise RuntimeError(why)

    def _call(self) -> _Call:
        calls = getattr(self._here, "calls", [])
        if not calls:
            raise RuntimeError("emulator: a launch outside of any kernel call")
        return calls[-1]

    def before_call(self, kernel: str, arguments: list) -> None:
        """Lays out the memory that the kernel may touch."""
        views = [
            _View(name, address, element, tuple(sizes), tuple(element * one for one in strides), written)
            for name, (address, element, sizes, strides, written) in _given(_argument_names(self.csrc).get(kernel), arguments)
        ]
        call = _Call(kernel, views)
        for view in views:
            writable, defined = (view.written, not view.written) if self.checks else (True, True)
            call.memory.add_view(*view.place, writable=writable, defined=defined, name=view.name)
        self._here.__dict__.setdefault("calls", []).append(call)

    def after_call(self, kernel: str, failed: bool) -> None:
        """Raises what a launch raised, or a Fault if an output has bytes that were never written."""
        call = self._here.calls.pop()
        if call.problem is not None:
            raise call.problem
        for view in [] if failed else call.views:
            missing = call.memory.undefined_in(*view.place) if view.written else 0
            if missing:
                total = view.element * prod(view.sizes)
                raise Fault(f"{missing} of {total} bytes of output {view.name} were never written", kernel)

    def _run(self, kernel: Kernel, parameters: bytes, size: gpus.LaunchSize) -> None:
        call = self._call()
        kernel.check_limits(self.gpu, size)
        counts = kernel.launch_raw(
            size.grid, size.block, parameters, call.memory,
            dynamic_shared=size.dynamic_shared, cluster=size.cluster, order=self.order,
        )  # fmt: skip
        if call.kernel in self.counts:
            self.counts[call.kernel] += counts
        else:
            self.counts[call.kernel] = counts

    def cuda_kernel(self, name: str) -> Kernel:
        return module_of(self.launchers.ptx_of(name)).kernel(name)

    def launch_cuda(self, asked: cuda.Launch) -> None:
        call = self._call()
        try:
            kernel = self.cuda_kernel(asked.kernel)
            compiled = kernel.directives.get("reqnctapercluster") or (1, 1, 1)
            size = gpus.LaunchSize(
                asked.grid, asked.block, asked.cluster if any(asked.cluster) else compiled,
                dynamic_shared=asked.dynamic_shared, granted_shared=asked.granted_shared,
                large_clusters=asked.large_clusters,
            )  # fmt: skip
            self._run(kernel, asked.pack(kernel.parameters), size)
        except BaseException as problem:
            call.problem = problem
            raise

    def cuda_properties(self, name: str) -> tuple[int, int]:
        kernel = self.cuda_kernel(name)
        return kernel.static_shared, prod(kernel.directives.get("maxntid", (0,)))

    def cuda_write(self, to: int, source: int | None, nbytes: int) -> None:
        """A cudaMemset or cudaMemcpy by a launcher."""
        call = self._call()
        views = [view for view in call.views if view.written and view.holds(to, nbytes)]
        if not views:
            call.problem = Fault(f"the launcher writes {nbytes} bytes that are no output", call.kernel)
            raise call.problem
        call.memory.add(to, nbytes, defined=True, name=views[0].name)

    def launch_triton(self, kernel: Any, programs: int, arguments: Sequence, named: dict) -> None:
        self._run(*triton.launch_of(self.gpu, kernel, programs, arguments, named))


def _given(names: list[str] | None, arguments: list) -> list[tuple[str, tuple]]:
    """Tensors among the arguments, by name; by number if the kernel is one of a package that was not named."""
    names = names or [f"argument {index}" for index in range(len(arguments))]
    return [(name, one) for name, one in zip(names, arguments, strict=True) if one is not None]


_current: on | None = None  # for the whole process


def _switch(to: on | None) -> None:
    """Emulates as `to` says from now on; None: nothing is emulated."""
    global _current
    names = to.emulated if to else []
    addresses = to.launchers.addresses if "cuda" in names else {}
    if addresses:
        to.launchers.serve(to.gpu, to.launch_cuda, to.cuda_properties, to.cuda_write)
    for kernel in doors.kernels():
        doors.emulate(kernel, addresses.get(kernel, 0))
    doors.observe(names, to and to.before_call, to and to.after_call)
    doors.serve("cuda", "cpu", "cuda" in names)
    doors.serve("triton", "cpu", "triton" in names or interprets_triton())
    _set_triton_launch(to.launch_triton if "triton" in names else None)
    emulated.clear()
    emulated.update(to.notes if to else {})
    _current = to


def _set_triton_launch(function: Callable | None) -> None:
    if find_spec("triton") is not None:
        from ..triton_kernels import launch

        launch.emulated = function
