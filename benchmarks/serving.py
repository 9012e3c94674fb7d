"""A text continued by the language model, byte by byte: eager, from an AOTInductor package in Python, and from the same package in C++."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from pylayers.cmake_path import cmake_prefix_path

from .language_model import OURS, Config, build
from .records import Case, Entry, Timing

EXAMPLES = Path(__file__).resolve().parents[1] / "examples/cpp"
CLOCK = "serving"
PROMPT, BYTES, ROUNDS = "def ", 150, 5
PATIENCE = 600  # seconds for a build, and for a run


def measure(config: Config = Config(), count: int = BYTES) -> Case:  # noqa: B008 frozen
    """On one thread, since C++ runs the package so. A program is built for it, where CMake and the example's sources are."""
    case = Case("language_model", "generation", (config.blocks, config.dim, config.tokens), "float32", "a byte", CLOCK)
    case.entries = {"eager": Entry("eager"), "package": Entry("peer"), "C++": Entry("ours")}
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        with tempfile.TemporaryDirectory() as folder:
            _measure(case, config, count, Path(folder))
    except Exception as error:  # noqa: BLE001 a compiler that is not there
        for entry in case.entries.values():
            entry.note = entry.note or f"n/a: {str(error).strip().splitlines()[-1][:120]}"
    finally:
        torch.set_num_threads(threads)
    return case


def _measure(case: Case, config: Config, count: int, folder: Path) -> None:
    if not EXAMPLES.exists():
        raise RuntimeError("needs examples/cpp of a checkout")
    program = _built(folder)
    package = runpy.run_path(str(EXAMPLES / "package.py"))
    scores = package["NextScores"](build(config, OURS, torch.device("cpu"))).eval()
    path = package["pack"](scores, folder / "model.pt2", config.tokens)
    loaded = torch._inductor.aoti_load_package(str(path), run_single_threaded=True)

    def python(one: Callable) -> Callable[[], float]:
        def seconds() -> float:
            start = time.perf_counter()
            package["continued"](one, PROMPT.encode(), count, config.tokens)
            return (time.perf_counter() - start) / count

        return seconds

    def cpp() -> float:
        done = _run(program, path, "--prompt", PROMPT, "--bytes", count)
        return 1 / float(done.stderr.split(b" bytes/s")[0].split()[-1])

    ways = {"eager": python(scores), "package": python(loaded), "C++": cpp}
    samples: dict[str, list[float]] = {name: [] for name in ways}
    for index in range(ROUNDS + 1):  # the first one warms up
        for name in sorted(ways, reverse=bool(index % 2)):
            taken = ways[name]()
            if index:
                samples[name].append(taken)
    for name, entry in case.entries.items():
        entry.timing = Timing.of(samples[name])


def cmake() -> str | None:
    """The one of the package from PyPI, which need not be on the path, else that on the path."""
    try:
        from cmake import CMAKE_BIN_DIR
    except ImportError:
        return shutil.which("cmake")
    return str(Path(CMAKE_BIN_DIR) / "cmake")


def _built(folder: Path) -> Path:
    """The program that runs packages."""
    command = cmake()
    if command is None:
        raise RuntimeError("needs cmake (pip install cmake)")
    _run(command, "-S", EXAMPLES, "-B", folder / "build", f"-DCMAKE_PREFIX_PATH={cmake_prefix_path()}")
    _run(command, "--build", folder / "build", "--target", "generate")
    return folder / "build/generate"


def _run(*command: object) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([str(one) for one in command], capture_output=True, timeout=PATIENCE, env=environment)
    if done.returncode:
        raise RuntimeError(done.stderr.decode(errors="replace") or f"{command[0]} failed")
    return done
