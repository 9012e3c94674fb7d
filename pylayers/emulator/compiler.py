"""Compiles a shared library once for given sources, and finds it again afterwards."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


def cache_directory() -> Path:
    """PYLAYERS_CACHE, or pylayers in the user's cache directory."""
    chosen = os.environ.get("PYLAYERS_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pylayers"


def cxx() -> str:
    """The C++ compiler: CXX, or the first of c++, g++ and clang++."""
    for name in filter(None, (os.environ.get("CXX"), "c++", "g++", "clang++")):
        found = shutil.which(name)
        if found:
            return found
    raise RuntimeError("the emulator needs a C++ compiler once (g++ or clang++; set CXX to its path), and found none")


def run(command: list[str | Path]) -> str:
    """The output of a compiler; RuntimeError with its first errors if it fails."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{Path(command[0]).name} failed: {done.stderr.strip()[:2000]}")
    return done.stdout


def fingerprint(*parts: object) -> str:
    """A name for what was made from these parts: paths count with their content."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, Path) else str(part).encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:24]


def cached(name: str, make: Callable[[Path], None]) -> Path:
    """cache_directory()/name, a folder. Filled by make(folder) if it is not there: whole or not at all, and by one process if several
    ask for it at once; the others wait."""
    place = cache_directory() / name
    if place.exists():
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    with open(place.parent / f".{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until the file is closed
        if not place.exists():
            made = Path(tempfile.mkdtemp(dir=place.parent, prefix=".making-"))
            try:
                make(made)
                os.replace(made, place)
            finally:
                shutil.rmtree(made, ignore_errors=True)
    return place


def each(function: Callable, items: Iterable) -> list:
    """function of each item, as many at once as there are cores."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(function, items))
