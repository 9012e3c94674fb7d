"""Which CUDA toolkit builds the kernels, for which architectures, or why none does."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import torch

# Without a GPU in the machine and without TORCH_CUDA_ARCH_LIST: A100, H100/H200, B200, and PTX for what comes later.
DEFAULT_ARCHITECTURES = ["8.0", "9.0", "10.0+PTX"]


@dataclass
class Toolkit:
    note: str
    home: Path | None = None
    version: str = ""
    architectures: list[str] = field(default_factory=list)


def _home_of(nvcc: str) -> Path | None:
    """The toolkit of an nvcc, which may be a shell wrapper outside of it."""
    dryrun = subprocess.run([nvcc, "--dryrun", "x.cu"], capture_output=True, text=True)
    top = re.search(r"^#\$ TOP=(.*)$", dryrun.stderr, re.MULTILINE)
    return Path(top[1]).resolve() if top else None


def _candidates():
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if os.environ.get(variable):
            yield Path(os.environ[variable])
    nvcc = shutil.which("nvcc")
    if nvcc:
        yield Path(nvcc).resolve().parent.parent
        yield _home_of(nvcc)
    yield Path("/usr/local/cuda")


def _version(home: Path) -> str:
    text = subprocess.run([home / "bin/nvcc", "--version"], capture_output=True, text=True).stdout
    release = re.search(r"release (\d+\.\d+)", text)
    return release[1] if release else "unknown"


def _architectures() -> list[str]:
    listed = os.environ.get("TORCH_CUDA_ARCH_LIST")
    if listed:
        return listed.replace(" ", ";").split(";")
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        return sorted({"{}.{}".format(*torch.cuda.get_device_capability(i)) for i in range(count)})
    return DEFAULT_ARCHITECTURES


def _search() -> Toolkit:
    wanted = torch.version.cuda
    if wanted is None:
        return Toolkit(f"CPU kernels only: torch {torch.__version__} is a build without CUDA")
    reasons = []
    for home in _candidates():
        if home is None or not (home / "bin/nvcc").exists() or not (home / "include/cuda_runtime_api.h").exists():
            continue
        version = _version(home)
        if version.split(".")[0] == wanted.split(".")[0]:
            architectures = _architectures()
            return Toolkit(f"CPU and CUDA kernels, CUDA {version} for {', '.join(architectures)}", home, version, architectures)
        reasons.append(f"nvcc {version} in {home}")
    found = f", found {' and '.join(reasons)}" if reasons else ", found no nvcc"
    return Toolkit(f"CPU kernels only: torch {torch.__version__} needs nvcc {wanted.split('.')[0]}.x{found}")


def find() -> Toolkit:
    """Sets CUDA_HOME and TORCH_CUDA_ARCH_LIST for torch.utils.cpp_extension, which guesses both less well."""
    forced = os.environ.get("PYLAYERS_CUDA")
    if forced not in (None, "", "0", "1"):
        raise SystemExit(f"PYLAYERS_CUDA must be 0 or 1, got {forced}")
    if forced == "0":
        return Toolkit("CPU kernels only: PYLAYERS_CUDA=0")
    toolkit = _search()
    if forced == "1" and toolkit.home is None:
        raise SystemExit(f"PYLAYERS_CUDA=1, but {toolkit.note}")
    if toolkit.home:
        os.environ["CUDA_HOME"] = str(toolkit.home)
        os.environ["TORCH_CUDA_ARCH_LIST"] = ";".join(toolkit.architectures)
    return toolkit
