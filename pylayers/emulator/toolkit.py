"""Finds nvcc: an installed CUDA toolkit, or the compiler that comes from PyPI."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MISSING = (
    "the emulator needs nvcc to compile the CUDA kernels, and found none: "
    "pip install torch-pylayers[emulator], or set CUDA_HOME"
)


@dataclass(frozen=True)
class Toolkit:
    nvcc: Path
    include: Path
    version: str


def _home_of(nvcc: str) -> Path | None:
    """The toolkit of an nvcc, which may be a shell wrapper outside of it."""
    dryrun = subprocess.run([nvcc, "--dryrun", "x.cu"], capture_output=True, text=True)
    top = re.search(r"^#\$ TOP=(.*)$", dryrun.stderr, re.MULTILINE)
    return Path(top[1]).resolve() if top else None


def _homes() -> Iterator[Path | None]:
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if os.environ.get(variable):
            yield Path(os.environ[variable])
    nvcc = shutil.which("nvcc")
    if nvcc:
        yield _home_of(nvcc)
    yield Path("/usr/local/cuda")
    yield from sorted(Path("/usr/local").glob("cuda-*"), reverse=True)
    for packages in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        yield from sorted(Path(packages).glob("nvidia/cu[0-9]*"), reverse=True)


def _runnable(program: Path) -> bool:
    """True for a program that is there. Some installers leave out the permission to run it."""
    if program.exists() and not os.access(program, os.X_OK):
        try:
            program.chmod(program.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
        except OSError:
            return False
    return program.exists()


def _whole(home: Path) -> bool:
    """Compiler, its back end, and headers: of the runtime, of the compiler, and libcu++, which those of the dtypes include."""
    headers = (home / "include/cuda_runtime.h", home / "include/crt/host_config.h")
    libcu = (home / "include/nv/target", home / "include/cccl/nv/target")
    programs = (home / "bin/nvcc", home / "nvvm/bin/cicc")
    return all(one.exists() for one in headers) and any(one.exists() for one in libcu) and all(map(_runnable, programs))


def find() -> Toolkit:
    """The first toolkit that is whole; RuntimeError if there is none."""
    for home in _homes():
        if home is not None and _whole(home):
            told = subprocess.run([home / "bin/nvcc", "--version"], capture_output=True, text=True).stdout
            release = re.search(r"release [\d.]+, V([\d.]+)", told)
            if release:
                return Toolkit(home / "bin/nvcc", home / "include", release[1])
    raise RuntimeError(MISSING)
