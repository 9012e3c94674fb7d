"""Builds two shared objects: _ops (the ops and kernels, no Python in it) and _C (the pybind11 module on top).

PYLAYERS_CUDA=0|1 leaves the CUDA kernels out, or insists on them; TORCH_CUDA_ARCH_LIST chooses their architectures; MAX_JOBS
limits the parallel compilers. Nothing is downloaded. The metadata is here and not in pyproject.toml, whose licence field old and
new setuptools read differently; without build isolation it is the environment's setuptools that reads it.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "build_support"))

import cuda_toolkit  # noqa: E402
from setuptools import setup  # noqa: E402

# nvcc from PyPI, with what it needs. Of one version: a compiler of another one makes PTX that its parts refuse.
NVCC = ("cuda-nvcc", "cuda-crt", "nvvm", "cuda-runtime", "cuda-cccl")

# Read, not imported: the package needs the library that is about to be built.
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "pylayers/version.py").read_text(), re.MULTILINE)[1]

toolkit = cuda_toolkit.find()
print(f"pylayers: {toolkit.note}", file=sys.stderr)

import extensions  # noqa: E402  (torch.utils.cpp_extension reads CUDA_HOME when it is imported)

setup(
    name="torch-pylayers",
    version=VERSION,
    description="Custom layers for PyTorch: hand-written CUDA, Triton and C++ kernels behind drop-in modules",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=[
        "pylayers",
        "pylayers.modules",
        "pylayers.functional",
        "pylayers.reference",
        "pylayers.emulator",
        "pylayers.conversion",
        "pylayers.distributed",
        "pylayers.io",
        "pylayers.onnx",
        "pylayers.testing",
        "pylayers.testing.contract",
        "pylayers.testing.faults",
        "pylayers.triton_kernels",
        "pylayers.benchmarks",
        "pylayers.csrc",
        "pylayers.build_support",
    ],
    package_dir={
        "pylayers.triton_kernels": "triton_kernels",
        "pylayers.benchmarks": "benchmarks",
        "pylayers.csrc": "csrc",
        "pylayers.build_support": "build_support",
    },
    # The emulator compiles its engine and the CUDA kernels where it runs; packages with kernels of their own use the headers.
    package_data={
        "pylayers": ["py.typed", "*.pyi", "cmake/*.cmake", "templates/**/*", "templates/**/.gitignore"],
        "pylayers.emulator": ["native/**/*.h", "native/**/*.cpp"],
        "pylayers.testing": ["*.cpp"],
        "pylayers.csrc": ["*.h", "*.def", "ops/*.h", "cpu/*.h", "cuda/*.cu*", "cuda/*.h", "cuda/device/*.cuh"],
    },
    ext_modules=extensions.modules(ROOT, toolkit),
    cmdclass={"build_ext": extensions.Build},
    install_requires=[extensions.torch_requirement()],
    extras_require={
        "bench": ["plotly", "rich"],
        "onnx": ["onnx", "onnxscript"],
        "test": ["pytest", "pytest-xdist", "hypothesis", "numpy", "safetensors", "scikit-learn", "nbclient", "nbformat", "ipykernel",
                 "transformers", "timm", "torchvision", "diffusers", "peft", "accelerate", "cmake", "onnx", "onnxscript", "onnxruntime"],
        "emulator": ["numpy", *(f"nvidia-{name}==13.0.*" for name in NVCC)],
    },
    zip_safe=False,
)
