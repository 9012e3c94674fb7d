"""What several processes are to compute, beside what one computes: all of it."""

from functools import partial

from processes import layers, losses, sharded_ops, training
from processes.registry import CHECKS, FOUR, TWO

for name in sharded_ops.CASES:
    CHECKS[f"op {name}"] = partial(sharded_ops.check, name)
    TWO.append(f"op {name}")

__all__ = ["CHECKS", "FOUR", "TWO", "layers", "losses", "training"]
