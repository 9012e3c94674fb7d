"""Which backend serves a call: the default of the device, the one chosen with `backend`, or one of the user's own."""

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

import torch

from .library import build_info, doors

choice: str | None = None  # a plain value: Dynamo guards on it, and a change of it compiles again
emulated: dict[str, str] = {}  # while a GPU is emulated: the note of each backend that this concerns


@dataclass(frozen=True)
class Backend:
    """What one backend can do in this process."""

    name: str
    devices: tuple[str, ...]  # the device types that it can serve, () if none
    note: str  # how it was built, or why it cannot run
    kernels: tuple[str, ...]  # the kernels of its own
    timed: bool = True  # False: an interpreter or emulation, whose speed says nothing


def interprets_triton() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


@functools.cache
def _interpreter_fault() -> str:
    """Why Triton's interpreter cannot run our kernels here, or "". Before Triton 3.7 its loops take numbers out of arrays in a way
    that NumPy 2.4 ended."""
    try:
        triton, numpy = version("triton"), version("numpy")
    except PackageNotFoundError:  # a build under another name, which is newer
        return ""
    if [int(part) for part in triton.split(".")[:2]] < [3, 7] and [int(part) for part in numpy.split(".")[:2]] >= [2, 4]:
        return f"the interpreter of Triton {triton} needs NumPy below 2.4, got {numpy}: pip install 'numpy<2.4'"
    return ""


def _triton_note() -> str:
    if find_spec("triton") is None:
        return "not installed: triton comes with the CUDA builds of torch"
    if interprets_triton():
        return _interpreter_fault() or "interpreted on the CPU (TRITON_INTERPRET=1)"
    return "compiled at the first call" if torch.cuda.is_available() else "no GPU here; TRITON_INTERPRET=1 runs it on the CPU"


def _cuda_note() -> str:
    if not build_info["cuda"]:
        return build_info["note"]
    built = f"CUDA {build_info['cuda']} for {', '.join(build_info['architectures'])}"
    return built if torch.cuda.is_available() else f"{built}; no GPU here"


def backends() -> dict[str, Backend]:
    """Every backend by name: the device types it can serve here, the kernels it has, and why it cannot run where it cannot."""
    notes = {
        "cpu": lambda: f"C++ for {doors.cpu_capability()}, {torch.get_num_threads()} threads",
        "cuda": _cuda_note,
        "triton": _triton_note,
        "reference": lambda: "plain PyTorch, the definition",
    }
    found = {}
    for name, (devices, kernels) in doors.backends().items():
        here = tuple(device for device in devices if device != "cuda" or torch.cuda.is_available())
        note = emulated.get(name) or (notes[name]() if name in notes else "registered by the user")
        timed = name not in emulated and not (name == "triton" and interprets_triton())
        found[name] = Backend(name, here, note, tuple(kernels), timed)
    return found


def _select(name: str | None) -> None:
    global choice
    if name is not None:
        known = backends()
        if name not in known:
            raise ValueError(f"backend: there is no backend {name!r}; there are {', '.join(known)}")
        if not known[name].devices:
            able = ", ".join(one.name for one in known.values() if one.devices)
            raise RuntimeError(f"backend: {name!r} cannot run here ({known[name].note}); these can: {able}")
    doors.select(name)
    choice = name


class backend:
    """Serve all calls with one backend, within a `with` block and for the whole process.

    Args:
        name: `"cpu"`, `"cuda"`, `"triton"`, `"reference"`, the name of a backend of your own, or None for the default.

    Raises:
        ValueError: there is no such backend.
        RuntimeError: it cannot run here. A call whose tensor it cannot serve raises this too, and says which can.

    The backward of a call runs on the backend that its forward ran on. Outside of any block the environment variable
    `PYLAYERS_BACKEND` decides, else the device: `cuda` for CUDA tensors, `cpu` for CPU tensors.

    Example:
        >>> with pylayers.backend("reference"):
        ...     y = layer(x)
    """

    def __init__(self, name: str | None):
        self.name = name

    def __enter__(self) -> "backend":
        self.before = choice
        _select(self.name)
        return self

    def __exit__(self, *exc_info: object) -> None:
        _select(self.before)


def register_kernels(backend: str, kernels: Any, devices: Sequence[str] = ("cpu", "cuda")) -> list[str]:
    """Adds kernels of your own as a backend, to be used with `pylayers.backend(name)` and checked and measured like ours.

    Args:
        backend: the name of the backend; one of ours if the kernels are those of a package of your own.
        kernels: a module, class or namespace. Its functions that have the name of a kernel (`pylayers.kernels()`) are taken.
            A kernel is called as `f(outputs…, inputs…, scalars…)`, all positional, in the order that `csrc/ops.def` states;
            matrices are tensors [rows, dim] with unit stride along dim, vectors [dim], and what is left out is None. It writes
            to its outputs, never to its inputs.
        devices: the device types whose tensors it serves; of a backend of ours they stay what they are.

    Returns:
        The names that were taken. Other kernels of the same op are served by the device's default backend.

    Raises:
        ValueError: the name is one of ours and so are the kernels, or nothing in `kernels` is named like a kernel.
    """
    if backend in ("cpu", "cuda", "triton", "reference"):
        if any(hasattr(kernels, name) for name in _ours):
            raise ValueError(f"register_kernels: {backend!r} is a backend of pylayers, choose another name")
        devices = ()
    taken = doors.register_kernels(backend, kernels, list(devices))
    if not taken:
        raise ValueError(f"register_kernels: nothing is named like a kernel; kernels are {', '.join(doors.kernels())}")
    return taken


_ours = frozenset(doors.kernels())  # before those of other packages are loaded


def kernels() -> list[str]:
    """The names of all kernels."""
    return doors.kernels()


@functools.cache
def _triton_kernels():
    from . import triton_kernels

    return triton_kernels


class _Late:
    """The Triton kernels by name; triton is imported when the first one is called."""

    def __getattr__(self, name: str):
        if name not in doors.kernels() or name == "multiply":  # of which libraries have a good one on a GPU
            raise AttributeError(name)
        return lambda *arguments: getattr(_triton_kernels(), name)(*arguments)


if find_spec("triton") is not None:
    doors.register_kernels("triton", _Late(), ["cuda", "cpu"] if interprets_triton() and not _interpreter_fault() else ["cuda"])
_select(os.environ.get("PYLAYERS_BACKEND") or None)
