"""A fault in a kernel's source, and how it is planted into a copy."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
OPS = (
    "rms_norm", "layer_norm", "add_rms_norm", "add_layer_norm", "group_norm", "gate", "softmax", "rotary", "linear", "bilinear", "tensor_reduction",
    "centered", "cross_entropy", "pointwise_loss", "halve_until", "dropout_add", "leading_fourier", "two_sided_uniform",
)  # fmt: skip
# Sources that an op uses beside its own.
USES = {"tensor_reduction": ("bilinear",), "softmax": ("softmax_columns",), "cross_entropy": ("softmax",)}


@dataclass(frozen=True)
class Fault:
    """Text that is replaced in a source.

    Attributes:
        op: whose tests must notice.
        file: relative to the checkout. `old` is in it exactly once.
        why: what is wrong then.
        equivalent: why nothing can notice, if so. Such a fault documents that a line is there for speed alone.
    """

    op: str
    file: str
    old: str
    new: str
    why: str
    equivalent: str = ""

    def problem(self) -> str:
        """Why it cannot be planted; "" if it can."""
        found = (CHECKOUT / self.file).read_text().count(self.old)
        if self.old == self.new or found != 1:
            return f"{self.file}: {self.old!r} is there {found} times, not once, or is not changed"
        return ""

    def plant(self, folder: Path) -> None:
        """Changes the copy of the source under `folder`."""
        path = folder / self.file
        path.write_text(path.read_text().replace(self.old, self.new, 1))


def copy_sources(kind: str, op: str, folder: Path) -> None:
    """csrc and triton_kernels. Of the CUDA sources those that `op` uses, so that no others are compiled."""
    for name in ("csrc", "triton_kernels"):
        shutil.copytree(CHECKOUT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    if kind == "cuda":
        for path in (folder / "csrc/cuda").glob("*.cu"):
            if path.stem not in (op, *USES.get(op, ())):
                path.unlink()
