"""One call on the emulator, which counts what its GPU kernels move and compute. Nothing is timed."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from math import prod

import torch

import pylayers
from pylayers import check, emulator
from pylayers.emulator import cuda, gpus

from .harness import Benchmark, Size, dtype_name
from .traffic import SECTOR

WORKSPACE = "partial"


class Counting(emulator.on):
    """Adds up too what the calls of each kernel must move: every tensor once, workspace not at all."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.minimum: Counter[str] = Counter()

    def before_call(self, kernel: str, arguments: list) -> None:
        super().before_call(kernel, arguments)
        for name, argument in zip(cuda.kernel_arguments()[kernel], arguments):
            if argument is not None and name != WORKSPACE:
                _, element, sizes, *_ = argument
                self.minimum[kernel] += element * prod(sizes)


def count(benchmark: Benchmark, size: Size, dtype: torch.dtype, backend: str, gpu: str = "h200", **others) -> Counting:
    """One forward and backward; others: of `emulator.on`."""
    generator = torch.Generator().manual_seed(0)
    inputs = benchmark.inputs(*size, dtype=dtype, device=torch.device("cpu"), generator=generator)
    leaves = [one.requires_grad_() for one in inputs]
    with Counting(gpu, backends=[backend], **others) as counting, pylayers.backend(backend):
        outputs = check.outputs_of(benchmark.function(*leaves))
        torch.autograd.grad(outputs, leaves, [torch.ones_like(one) for one in outputs])
    for kernel, stated in benchmark.traffic.items():
        counting.minimum[kernel] -= stated(backend, *size, dtype.itemsize).unread
    return counting


def modelled_seconds(gpu: gpus.Gpu, moved: int, flops: int, matrix_flops: int) -> dict[str, float]:
    """A roofline by the datasheet: the time that each limit alone allows, if no cache serves what is read again."""
    arithmetic = flops / (gpu.fp32_rate * 1e12) + matrix_flops / (gpu.bf16_rate * 1e12)
    return {"memory": moved / (gpu.memory_bandwidth * 1e9), "arithmetic": arithmetic}


def rows(benchmark: Benchmark, dtype: torch.dtype, backend: str, gpu: str) -> list[dict]:
    """A row for each kernel that one forward and backward launches."""
    counting = count(benchmark, benchmark.counted_size, dtype, backend, gpu)
    return [_row(benchmark, dtype, backend, kernel, counting) for kernel in counting.counts]


def datasheet(gpu: str) -> dict[str, float]:
    return {name: getattr(gpus.find(gpu), name) for name in ("memory_bandwidth", "fp32_rate", "bf16_rate")}


def _row(benchmark: Benchmark, dtype: torch.dtype, backend: str, kernel: str, counting: Counting) -> dict:
    counts = counting.counts[kernel]
    moved = SECTOR * (counts.load_sectors + counts.store_sectors)
    model = modelled_seconds(counting.gpu, moved, counts.flops, counts.matrix_flops)
    limit = max(model, key=model.__getitem__)
    return {
        "title": benchmark.title, "kernel": kernel, "backend": backend,
        "size": benchmark.counted_size, "dtype": dtype_name(dtype),
        "minimum": counting.minimum[kernel], "moved": moved, "counts": asdict(counts),
        "modelled_seconds": model[limit], "limit": limit,
    }  # fmt: skip
