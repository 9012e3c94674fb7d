"""What the machine itself can do. Every row is later read against it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

import torch

from .records import Timing
from .timing import Variant, wall_times

# Copies of more than this are measured on this much and scaled: time is proportional long before.
MAX_COPY_BYTES = 512 << 20


def copy_roofs(total_bytes: int, device: torch.device, sets: int = 1) -> list[Variant]:
    """Two copies that move `total_bytes`, read and written together.

    `copy` writes into memory that is there. `clone` makes a new tensor, as an op that returns one must: on a CPU it
    also pays for the pages that the system hands out, which at large sizes costs more than the copy.
    """
    count = max(1, min(total_bytes, MAX_COPY_BYTES) // 8)
    scale = total_bytes / (8 * count)
    turns = cycle([(torch.ones(count, device=device), torch.ones(count, device=device)) for _ in range(sets)])

    def copy() -> torch.Tensor:
        source, target = next(turns)
        return target.copy_(source)

    def clone() -> torch.Tensor:
        return next(turns)[0].clone()

    return [Variant("copy", "roof", copy, scale=scale), Variant("clone", "roof", clone, scale=scale)]


def product_roof(rows: int, inner: int, dim: int, dtype: torch.dtype, device: torch.device, backward: bool) -> Variant:
    """The bare matrix products of a linear layer, into memory that is there: one forward, two more backward."""
    x = torch.randn(rows, inner, device=device).to(dtype)
    weight = torch.randn(dim, inner, device=device).to(dtype)
    y = torch.empty(rows, dim, dtype=dtype, device=device)
    dx, dweight = torch.empty_like(x), torch.empty_like(weight)

    def products() -> None:
        torch.mm(x, weight.T, out=y)
        if backward:
            torch.mm(y, weight, out=dx)
            torch.mm(y.T, x, out=dweight)

    return Variant("product", "roof", products)


def measure(device: torch.device, dtypes: Sequence[torch.dtype], quick: bool) -> dict:
    """Copy GB/s by size, matrix-product TFLOP/s by dtype, and the cost of the smallest op."""
    one = torch.ones(1, device=device)
    smallest = Variant("smallest op", "roof", one.neg)
    copies = []
    for size in (1 << 20, 64 << 20) if quick else (1 << 16, 1 << 20, 1 << 24, 1 << 26, 1 << 28):
        times = wall_times(copy_roofs(size, device), device, budget=0.2)
        copies.append({"bytes": size, **{name: _rate(time, size) for name, time in times.items()}})
    return {
        "smallest_op_seconds": wall_times([smallest], device, budget=0.1)["smallest op"].median,
        "copy": copies,
        "product": [_product(device, dtype, quick) for dtype in dtypes],
    }


def predicted_seconds(roofs: dict, dtype: str, rows: int, inner: int, dim: int, backward: bool) -> float:
    """How long the products alone will take: some dtypes have no fast product on some machines, backward above all."""
    found = next(row for row in roofs["product"] if row["dtype"] == dtype)
    work = 2 * rows * inner * dim
    return work / found["median"] + (2 * work / found["backward"] if backward else 0.0)


def _product(device: torch.device, dtype: torch.dtype, quick: bool) -> dict:
    # The slow backward of some dtypes is seen at a small size as well.
    side, small = (8192, 2048) if device.type == "cuda" else (512, 256) if quick else (1024, 256)
    timing, both = (
        wall_times([product_roof(size, size, size, dtype, device, backward)], device, budget=0.2)["product"]
        for size, backward in ((side, False), (small, True))
    )
    rate = _rate(timing, 2 * side**3)
    alone = both.p20 - 2 * small**3 / rate["p80"]
    backward = 4 * small**3 / alone if alone > 0 else rate["median"]
    return {"dtype": str(dtype).removeprefix("torch."), "side": side, **rate, "backward": backward}


def _rate(timing: Timing, work: int) -> dict:
    return {"median": work / timing.median, "p20": work / timing.p80, "p80": work / timing.p20, "count": timing.count}
