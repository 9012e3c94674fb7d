"""What the GPU kernels move and compute, counted on the emulator where that can run. A GPU is not needed."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .harness import Benchmark, dtype_name
from .terminal import Advance

BACKENDS = ("cuda", "triton")
DTYPES = (torch.float32, torch.bfloat16)


def why_unknown(gpu: str) -> str:
    """A sentence if the emulator knows no such GPU."""
    try:
        from pylayers.emulator import gpus

        gpus.find(gpu)
    except ImportError:  # told later, as a reason not to count
        return ""
    except ValueError as error:
        return str(error)
    return ""


def steps(benchmarks: Sequence[Benchmark]) -> list[tuple[Benchmark, torch.dtype, str]]:
    return [(one, dtype, backend) for one in benchmarks if one.quick for dtype in DTYPES for backend in BACKENDS]


def run(benchmarks: Sequence[Benchmark], gpu: str, advance: Advance) -> dict:
    """A row for each kernel, backend and dtype; for a backend that cannot be emulated here, the reason."""
    found: dict = {"gpu": gpu, "datasheet": {}, "rows": [], "notes": {}}
    for benchmark, dtype, backend in steps(benchmarks):
        advance(1, f"counting {benchmark.title} {dtype_name(dtype)}, {backend} on an emulated {gpu}")
        if backend in found["notes"]:
            continue
        try:
            from . import counting  # needs NumPy, and later a compiler

            found["datasheet"] = counting.datasheet(gpu)
            found["rows"] += counting.rows(benchmark, dtype, backend, gpu)
        except Exception as error:  # what was measured before is kept
            found["notes"][backend] = str(error).strip().split("\n")[0]
    return found
