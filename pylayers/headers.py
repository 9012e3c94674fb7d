"""Where the C++ and CUDA headers are."""

from pathlib import Path


def include() -> Path:
    """The folder to compile with, as in `-I`, for kernels that use our headers: `#include <cuda/device/vector.cuh>`.

    Raises:
        RuntimeError: the headers are neither in the package nor beside it.
    """
    package = Path(__file__).parent
    for folder in (package, package.parent):
        if (folder / "csrc/view.h").exists():
            return folder / "csrc"
    raise RuntimeError(f"pylayers: the C++ headers, csrc, are neither in {package} nor beside it: install the package again")
