"""For the setup.py of a package with kernels of its own: its ops and kernels, compiled like ours, in one shared object."""

import sys
from pathlib import Path

from pylayers import include
from pylayers.library import library_folder

from . import cuda_toolkit


def build_options(name: str, root: Path) -> dict:
    """Arguments of setup() that compile csrc/ in the folder of setup.py, `root`, into `name`._C.

    csrc/ops.def states the kernels; csrc/*.cpp and csrc/ops/*.cpp hold bindings and ops, csrc/cpu/*.cpp the CPU kernels, which are
    compiled once per instruction set, csrc/cuda/*.cu the CUDA kernels, which are left out where there is no nvcc of torch's CUDA
    version. PYLAYERS_CUDA, TORCH_CUDA_ARCH_LIST and MAX_JOBS are obeyed as in pylayers' own build.
    """
    toolkit = cuda_toolkit.find()
    print(f"{name}: {toolkit.note}", file=sys.stderr)
    from . import extensions  # torch.utils.cpp_extension reads CUDA_HOME when it is imported

    return {
        "ext_modules": [extensions.of_package(f"{name}._C", root, toolkit, include(), library_folder)],
        "cmdclass": {"build_ext": extensions.BuildPackage},
        "install_requires": [extensions.torch_requirement(), "torch-pylayers"],
    }
