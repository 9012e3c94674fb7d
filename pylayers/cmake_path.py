"""Where CMake finds the ops and torch: `python -m pylayers cmake`."""

import argparse
from pathlib import Path

import torch

from .library import library_folder


def cmake_prefix_path() -> str:
    """What to give CMake as CMAKE_PREFIX_PATH, for find_package(pylayers) in a C++ program: our folder and that of torch."""
    return ";".join((str(library_folder / "cmake"), str(Path(torch.__file__).parent / "share/cmake")))


def main(args: argparse.Namespace) -> int:
    print(cmake_prefix_path())
    return 0
