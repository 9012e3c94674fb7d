"""The native engine: compiled once for this machine, called through ctypes."""

from __future__ import annotations

import ctypes
import functools
import platform
from pathlib import Path

from . import compiler

NATIVE = Path(__file__).parent / "native"
FLAGS = ["-std=c++17", "-O3", "-march=native", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-w"]
POINTER = ctypes.c_void_p


class Traffic(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("instructions", "bytes", "sectors", "requests")]


class Counts(ctypes.Structure):
    _fields_ = [("global_load", Traffic), ("global_store", Traffic)] + [
        (name, ctypes.c_int64)
        for name in (
            "shared_accesses", "shared_conflicts", "shuffles", "barriers", "atomics", "flops", "matrix_flops", "instructions",
        )
    ]  # fmt: skip


class ProgramDescription(ctypes.Structure):
    _fields_ = [
        ("instruction_count", ctypes.c_int64),
        ("instructions", POINTER),
        ("operand_count", ctypes.c_int64),
        ("operands", POINTER),
        ("block_count", ctypes.c_int64),
        ("blocks", POINTER),
        ("special_count", ctypes.c_int64),
        ("specials", POINTER),
        ("register_bytes", ctypes.c_int64),
        ("local_bytes", ctypes.c_int64),
    ]


class LaunchDescription(ctypes.Structure):
    _fields_ = [
        ("program", POINTER),
        ("memory", POINTER),
        ("grid", ctypes.c_uint32 * 3),
        ("block", ctypes.c_uint32 * 3),
        ("cluster", ctypes.c_uint32 * 3),
        ("static_shared", ctypes.c_uint32),
        ("dynamic_shared", ctypes.c_uint32),
        ("order", ctypes.c_uint32),
        ("step_limit", ctypes.c_uint64),
        ("parameters", ctypes.c_char_p),
        ("parameter_bytes", ctypes.c_uint64),
    ]


class LaunchResult(ctypes.Structure):
    _fields_ = [
        ("counts", Counts),
        ("instruction", ctypes.c_int32),
        ("where", ctypes.c_char * 200),
        ("what", ctypes.c_char * 800),
    ]


def _headers() -> list[Path]:
    return sorted(path for path in NATIVE.rglob("*.h") if path.parent.name != "cudart")


def _object(source: Path) -> Path:
    """Compiled by itself and kept by itself: a change of one file costs one file."""
    mark = compiler.fingerprint(source, *_headers(), FLAGS, compiler.cxx(), _cpu_model())
    make = lambda folder: compiler.run([compiler.cxx(), *FLAGS, "-c", source, "-o", folder / "object.o"])  # noqa: E731
    return compiler.cached(f"emulator-{source.stem}-{mark}", make) / "object.o"


def _build(folder: Path) -> None:
    sources = [*sorted(NATIVE.glob("*.cpp")), *sorted((NATIVE / "instructions").glob("*.cpp"))]
    compiler.run([compiler.cxx(), *FLAGS, "-shared", *compiler.each(_object, sources), "-o", folder / "engine.so"])


def _signatures(library: ctypes.CDLL) -> None:
    for name, result, *arguments in (
        ("opcode", ctypes.c_int, ctypes.c_char_p),
        ("special", ctypes.c_int, ctypes.c_char_p),
        ("program", POINTER, ctypes.POINTER(ProgramDescription), ctypes.POINTER(LaunchResult)),
        ("free_program", None, POINTER),
        ("memory", POINTER),
        ("free_memory", None, POINTER),
        ("add", None, POINTER, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_int, POINTER, POINTER, ctypes.c_uint8, ctypes.c_char_p),
        ("undefined", ctypes.c_int64, POINTER, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_int, POINTER, POINTER),
        ("save", ctypes.c_int64, POINTER, POINTER),
        ("restore", None, POINTER, POINTER, ctypes.c_int64),
        ("launch", ctypes.c_int, ctypes.POINTER(LaunchDescription), ctypes.POINTER(LaunchResult)),
    ):
        function = getattr(library, f"emulator_{name}")
        function.restype, function.argtypes = result, list(arguments)


@functools.cache
def library() -> ctypes.CDLL:
    """The engine. The first call on a machine compiles it, which takes about half a minute."""
    sources = sorted(path for path in NATIVE.rglob("*.cpp") if path.parent.name != "cudart")
    mark = compiler.fingerprint(*_headers(), *sources, FLAGS, compiler.cxx(), _cpu_model())
    loaded = ctypes.CDLL(str(compiler.cached(f"emulator-engine-{mark}", _build) / "engine.so"))
    _signatures(loaded)
    return loaded


def _cpu_model() -> str:
    """-march=native makes a library for one model of processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return "".join(next((line for line in lines if line.startswith(key)), "") for key in ("model name", "flags", "Features"))


@functools.cache
def opcode_id(name: str) -> int:
    """-1 for an instruction that the engine does not know."""
    return library().emulator_opcode(name.encode())


@functools.cache
def special_id(name: str) -> int:
    return library().emulator_special(name.encode())
