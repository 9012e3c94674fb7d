"""The GPUs that can be emulated: limits that launches are held to, and datasheet numbers for a model of time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

KIB, MIB = 1 << 10, 1 << 20
ARCHITECTURES = (80, 90, 100)  # that kernels are compiled for


@dataclass(frozen=True)
class Gpu:
    """One model of GPU. Sizes are in bytes; bandwidth in GB/s and rates in TFLOP/s are the datasheet's."""

    name: str
    capability: tuple[int, int]
    multiprocessors: int
    threads_per_multiprocessor: int
    blocks_per_multiprocessor: int
    shared_per_multiprocessor: int
    shared_per_block_opt_in: int
    l2_bytes: int
    memory_bandwidth: float
    fp32_rate: float
    bf16_rate: float
    threads_per_block: int = 1024
    block_size: tuple[int, int, int] = (1024, 1024, 64)
    grid_size: tuple[int, int, int] = (2**31 - 1, 65535, 65535)
    registers: int = 65536  # of a multiprocessor
    shared_per_block: int = 48 * KIB
    warp_size: int = 32

    @property
    def architecture(self) -> int:
        """What kernels are compiled for: the highest of ARCHITECTURES that it can run."""
        return max(one for one in ARCHITECTURES if one <= 10 * self.capability[0] + self.capability[1])

    @property
    def cluster_size(self) -> int:
        """Blocks of a cluster, at most: 16 after an opt-in, 8 without."""
        return 16 if self.capability >= (9, 0) else 1

    @property
    def portable_cluster_size(self) -> int:
        return min(self.cluster_size, 8)


GPUS = {
    one.name: one
    for one in (
        Gpu("a100", (8, 0), 108, 2048, 32, 164 * KIB, 163 * KIB, 40 * MIB, 2039, 19.5, 312),
        Gpu("l4", (8, 9), 58, 1536, 24, 100 * KIB, 99 * KIB, 48 * MIB, 300, 30.3, 121),
        Gpu("h100", (9, 0), 132, 2048, 32, 228 * KIB, 227 * KIB, 50 * MIB, 3350, 66.9, 989),
        Gpu("h200", (9, 0), 132, 2048, 32, 228 * KIB, 227 * KIB, 50 * MIB, 4800, 66.9, 989),
        Gpu("b200", (10, 0), 148, 2048, 32, 228 * KIB, 227 * KIB, 126 * MIB, 8000, 75.0, 2250),
    )
}


def find(name: str) -> Gpu:
    if name.lower() not in GPUS:
        raise ValueError(f"emulator: there is no GPU {name!r}; there are {', '.join(GPUS)}")
    return GPUS[name.lower()]


@dataclass(frozen=True)
class LaunchSize:
    """How large a launch is: sizes in x, y, z and bytes of shared memory of a block."""

    grid: Sequence[int]
    block: Sequence[int]
    cluster: Sequence[int] = (1, 1, 1)
    static_shared: int = 0
    dynamic_shared: int = 0
    granted_shared: int = 0  # dynamic bytes that the kernel was allowed beyond the default
    large_clusters: bool = False  # allowed beyond the portable size
    compiled_threads: int = 0  # of a block that the kernel was compiled for, at most; 0: not stated


def why_refused(gpu: Gpu, size: LaunchSize) -> str | None:
    """The limit of the GPU that a launch goes beyond, in words; None if it fits."""
    return _why_grid(gpu, size) or _why_cluster(gpu, size) or _why_shared(gpu, size)


def _why_grid(gpu: Gpu, size: LaunchSize) -> str | None:
    for what, given, limits in (("grid", size.grid, gpu.grid_size), ("block", size.block, gpu.block_size)):
        for axis, count, limit in zip("xyz", given, limits, strict=True):
            if not 1 <= count <= limit:
                return f"{what} size {axis} is {count}, {gpu.name} takes 1 to {limit}"
    threads = prod(size.block)
    if threads > gpu.threads_per_block:
        return f"a block has {threads} threads, {gpu.name} takes {gpu.threads_per_block}"
    if 0 < size.compiled_threads < threads:
        return f"a block has {threads} threads, the kernel was compiled for {size.compiled_threads} at most"
    return None


def _why_cluster(gpu: Gpu, size: LaunchSize) -> str | None:
    blocks = prod(size.cluster)
    limit = gpu.cluster_size if size.large_clusters else gpu.portable_cluster_size
    if not 1 <= blocks <= limit:
        allowed = "" if size.large_clusters or limit == gpu.cluster_size else ", more only if the kernel allows it"
        return f"a cluster has {blocks} blocks, {gpu.name} takes 1 to {limit}{allowed}"
    for axis, grid, cluster in zip("xyz", size.grid, size.cluster, strict=True):
        if grid % cluster:
            return f"grid size {axis} is {grid}, no multiple of the cluster's {cluster}"
    return None


def _why_shared(gpu: Gpu, size: LaunchSize) -> str | None:
    if size.static_shared > gpu.shared_per_block:
        return f"{size.static_shared} bytes of static shared memory, {gpu.name} takes {gpu.shared_per_block}"
    total = size.static_shared + size.dynamic_shared
    if total > gpu.shared_per_block_opt_in:
        return f"{total} bytes of shared memory, {gpu.name} takes {gpu.shared_per_block_opt_in}"
    if total > gpu.shared_per_block and size.dynamic_shared > size.granted_shared:
        return (
            f"{total} bytes of shared memory, but {gpu.shared_per_block} is all without an opt-in: "
            f"cudaFuncSetAttribute granted {size.granted_shared} dynamic bytes, the launch wants {size.dynamic_shared}"
        )
    return None
