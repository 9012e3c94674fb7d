"""Compiled GPU kernels on a CPU: the PTX of CUDA and Triton kernels runs on host memory, checked and counted.

>>> with pylayers.emulator.on(device="h200"), pylayers.backend("cuda"):
...     y = pylayers.functional.rms_norm(x, (1001,))

docs/emulator.md tells what it proves and what it does not.
"""

from .faults import Fault, LaunchError, PtxError
from .launch import Counts, Kernel, Module, constant, output
from .run import run
from .session import missing, on
from .sources import use_chosen_triton_kernels

__all__ = ["Counts", "Fault", "Kernel", "LaunchError", "Module", "PtxError", "constant", "missing", "on", "output", "run"]

use_chosen_triton_kernels()
