"""Where the kernels' sources are: in the installed package, beside it in a checkout, or in PYLAYERS_SOURCES."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from ..headers import include

PACKAGE = Path(__file__).parents[1]
INCLUDE = re.compile(r'^\s*#(?:include|define PYLAYERS_OPS) "([^"]+)"', re.MULTILINE)


def chosen() -> Path | None:
    """A folder with csrc and triton_kernels, to be used instead of the package's own."""
    named = os.environ.get("PYLAYERS_SOURCES")
    return Path(named) if named else None


def csrc() -> Path:
    """The C++ and CUDA sources."""
    for folder in [chosen()] if chosen() else [PACKAGE, PACKAGE.parent]:
        if (folder / "csrc/ops.def").exists():
            return folder / "csrc"
    raise RuntimeError(
        "the emulator needs the CUDA kernels' source, csrc: "
        "it is neither in the package, nor beside it, nor in PYLAYERS_SOURCES"
    )


def of_package(csrc: Path) -> list[Path]:
    """What the kernels of a package with a csrc of its own are made of, beside their own sources."""
    ours = [path for pattern in ("*.h", "cuda/*.h", "cuda/device/*.cuh") for path in include().glob(pattern)]
    return sorted((csrc / "ops.def", *csrc.rglob("*.h"), *csrc.rglob("*.cuh"), *ours))


def use_chosen_triton_kernels() -> None:
    """Lets pylayers.triton_kernels be found in the chosen folder. To be called before it is imported."""
    if chosen():
        sys.modules["pylayers"].__path__.insert(0, str(chosen()))


def with_includes(source: Path) -> list[Path]:
    """A source, and every file that it includes by a relative path."""
    found, waiting = [], [source.resolve()]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.append(one)
            included = ((one.parent / name).resolve() for name in INCLUDE.findall(one.read_text()))
            waiting += [path for path in included if path.exists()]
    return sorted(found)
