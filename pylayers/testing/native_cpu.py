"""The CPU kernels of one op, compiled from the chosen sources, in place of those that pylayers was built with."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterator
from ctypes import POINTER, Structure, c_char_p, c_double, c_int, c_int8, c_int64, c_void_p
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import torch

from ..emulator import compiler, sources
from ..library import doors

MOST_DIMENSIONS = 4  # kMaxDims of csrc/view.h
DTYPES = {torch.float64: 0, torch.float16: 2, torch.bfloat16: 3, torch.int64: 4}  # as Dtype; any other is 1, float32
INSTRUCTION_SETS = {"baseline": ("baseline", 16, []), "avx2": ("avx2", 32, ["-mavx2", "-mfma", "-mf16c", "-mbmi2"])}
FLAGS = ["-std=c++17", "-O2", "-fPIC", "-shared", "-fvisibility=hidden"]
FLAGS += ["-ffp-contract=fast", "-fno-math-errno", "-Wno-psabi"]
SERIAL = Path(__file__).parent / "serial.cpp"


class Entry(Structure):
    """A row of the table in serial.cpp."""

    _fields_ = [("name", c_char_p), ("kernel", c_void_p)]


class View(Structure):
    """A View of csrc/view.h."""

    _fields_ = [
        ("data", c_void_p),
        ("dtype", c_int8),
        ("dims", c_int),
        ("size", c_int64 * MOST_DIMENSIONS),
        ("stride", c_int64 * MOST_DIMENSIONS),
    ]

    @classmethod
    def of(cls, tensor: torch.Tensor | None) -> View:
        if tensor is None:
            return cls(dtype=1)
        size, stride = ((c_int64 * MOST_DIMENSIONS)(*numbers) for numbers in (tensor.shape, tensor.stride()))
        return cls(tensor.data_ptr(), DTYPES.get(tensor.dtype, 1), tensor.dim(), size, stride)


KINDS = {"Output": (View, View.of), "Input": (View, View.of), "double": (c_double, float), "int64_t": (c_int64, int)}


def _types() -> dict[str, list[str]]:
    """The kernels of ops.def, with the types of their arguments."""
    text = (sources.csrc() / "ops.def").read_text()
    found = re.findall(r"^KERNEL\((\w+), ([^)]*)\)", text, re.MULTILINE)
    return {name: [one.split()[0] for one in arguments.split(",")] for name, arguments in found}


def _sources(op: str) -> list[Path]:
    """The file of the op, and those that are named after it: softmax.cpp, softmax_columns.cpp."""
    folder = sources.csrc() / "cpu"
    return [folder / f"{op}.cpp", *sorted(folder.glob(f"{op}_*.cpp"))]


def _compile(op: str, folder: Path) -> None:
    name, width, options = INSTRUCTION_SETS["baseline" if doors.cpu_capability() == "baseline" else "avx2"]
    isa = [f"-DPYLAYERS_ISA={name}", f"-DPYLAYERS_VECTOR_BYTES={width}", *options]
    made = ["-o", folder / "kernels.so"]
    own, *others = _sources(op)
    compiler.run([compiler.cxx(), *FLAGS, *isa, f"-I{sources.csrc()}", f'-DPYLAYERS_OP="{own}"', SERIAL, *others, *made])


def _kernel(address: int, types: list[str]) -> Callable:
    function = ctypes.CFUNCTYPE(None, *(KINDS[one][0] for one in types))(address)
    converters = [KINDS[one][1] for one in types]
    return lambda *arguments: function(*(to(one) for to, one in zip(converters, arguments, strict=True)))


def _table(library: ctypes.CDLL) -> Iterator[tuple[str, int]]:
    """The kernels in a library, with their addresses."""
    entry = ctypes.cast(library.kernels, POINTER(Entry))
    index = 0
    while entry[index].name:
        if entry[index].kernel:
            yield entry[index].name.decode(), entry[index].kernel
        index += 1


def use(op: str) -> None:
    """From now on calls of the op on the CPU run kernels that are compiled from the chosen sources."""
    read = [path for source in _sources(op) for path in sources.with_includes(source)]
    mark = compiler.fingerprint(compiler.cxx(), FLAGS, doors.cpu_capability(), SERIAL, Path(__file__), *read)
    library = ctypes.CDLL(str(compiler.cached(f"cpu-{op}-{mark}", partial(_compile, op)) / "kernels.so"))
    types = _types()
    kernels = SimpleNamespace(**{name: _kernel(address, types[name]) for name, address in _table(library)})
    doors.register_kernels("cpu", kernels, ["cpu"])
