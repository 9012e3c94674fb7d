"""What the kernels of the normalisations must move on a GPU. They share their design."""

from __future__ import annotations

from dataclasses import dataclass

from .traffic import ACCUMULATOR, Traffic, ceil_div, one_number, parts, row_sums


@dataclass(frozen=True)
class NormTraffic:
    """Of one kind: whether a mean is subtracted, which takes a bias too, and whether x is the sum of two matrices."""

    centred: bool
    adds: bool

    @property
    def vectors(self) -> int:
        """Of [dim], by which a row is scaled and shifted; and statistics of a row."""
        return 2 if self.centred else 1

    def forward(self, backend: str, rows: int, dim: int, size: int) -> Traffic:
        # Who holds a row reads the weight: with Triton a program, which holds as many rows as make 4096 values.
        readers = rows if backend == "cuda" else ceil_div(rows, max(1, 4096 // dim))
        matrices = 2 if self.adds else 1
        return Traffic(
            load=(matrices * rows + self.vectors * readers) * dim * size,
            store=rows * (matrices * dim * size + self.vectors * ACCUMULATOR),
        )

    def backward(self, backend: str, rows: int, dim: int, size: int) -> Traffic:
        # A part reads the weight once; with CUDA each of the rows that its 512 threads hold at a time does, and each warp
        # reads the row's statistics.
        lanes = min(dim * size // 16, 512)
        readers = parts(rows, dim) * (512 // lanes if backend == "cuda" else 1)
        matrices = 3 if self.adds else 2
        moved = Traffic(load=(matrices * rows + readers) * dim * size, store=rows * dim * size)
        moved += one_number(self.vectors * rows * (lanes // 32 if backend == "cuda" else 1))
        for _ in range(self.vectors):
            moved += row_sums(backend, rows, dim, size)
        return moved
