"""What each kernel of a GPU must move, as its design says. The emulator counts what it moves."""

from __future__ import annotations

from dataclasses import astuple, dataclass

ACCUMULATOR = 4  # bytes of a float32
SECTOR = 32  # bytes that a GPU moves at once


@dataclass(frozen=True)
class Traffic:
    """Bytes that the threads of all launches ask for, and those of a sector that only part of a warp's access needs.

    A sector counts once for each instruction of a warp that touches it: what several warps or blocks read
    counts for each, although a cache may serve it.
    """

    load: int
    store: int
    halves: int = 0  # of store: sectors that several instructions write a part of each, as far as they count again
    unread: int = 0  # of what a kernel is given: what it has no need of
    # load is a bound: mostly small operands, which lanes read as often as the compiler's layout has it, or in vain at the
    # ends of rows that begin anywhere.
    at_most: bool = False

    def __add__(self, other: Traffic) -> Traffic:
        *sums, at_most = (a + b for a, b in zip(astuple(self), astuple(other)))
        return Traffic(*sums, at_most > 0)

    @property
    def store_sectors(self) -> int:
        return self.store + self.halves


def ceil_div(n: int, size: int) -> int:
    return -(-n // size)


def parts(rows: int, dim: int) -> int:
    """Partial sums that a sum over rows is split into: csrc/cuda/parts.h."""
    most = 4 * 132 if dim <= 256 else 2 * 132 if dim <= 8192 else 132
    return max(1, min(most, max(rows // 32, min(rows, 132))))


def one_number(warps: int) -> Traffic:
    """Read by every thread of so many warps: each asks for 128 bytes of a sector of 32, and half way between is stated."""
    return Traffic(load=warps * (32 * ACCUMULATOR + 32) // 2, store=0)


def row_sums(backend: str, rows: int, dim: int, size: int) -> Traffic:
    """Partial sums written, read again and added. A CUDA thread that holds eight columns stores them in two halves."""
    partial = parts(rows, dim) * dim * ACCUMULATOR
    return Traffic(partial, partial + dim * size, partial if backend == "cuda" and size == 2 else 0)
