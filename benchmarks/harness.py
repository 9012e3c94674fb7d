"""What a benchmark declares, and the sizes that all of them share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from .traffic import Traffic

Size = tuple[int, ...]
Function = Callable[..., torch.Tensor | tuple[torch.Tensor, ...]]

HEADLINE = (2048, 4096)
# [rows, dim] from one short row to more than any cache holds; 333×1001 is a multiple of nothing, and no
# block of a GPU holds 262144 numbers.
ROW_SIZES: Mapping[str, Sequence[Size]] = {
    "cpu": ((1, 64), (1, 4096), (128, 1024), (333, 1001), (65536, 128), HEADLINE, (4096, 16384), (64, 262144)),
    "cuda": ((1, 64), (1, 4096), (333, 1001), HEADLINE, (65536, 512), (16384, 4096), (8192, 16384), (4096, 65536), (512, 262144)),
}
QUICK_ROW_SIZES: Sequence[Size] = ((1, 64), HEADLINE)


class Model(NamedTuple):
    """The two widths of a LLaMA-style block."""

    dim: int
    hidden: int


MODELS = {"llama3-8b": Model(4096, 14336), "llama3.2-1b": Model(2048, 8192)}
MODEL_TOKENS = {"cpu": (1, 128, 1024), "cuda": (1, 256, 8192)}


@dataclass(frozen=True)
class Benchmark:
    """One function, what it is measured against, and on what.

    `function`, `reference` (the definition, good for float64) and `eager` (what one writes without this package) take
    the tensors of `inputs(*size, dtype=…, device=…, generator=…)`. Gradients are asked for all of them.
    """

    op: str
    title: str
    function: Function
    reference: Function
    eager: Function
    inputs: Callable[..., tuple[torch.Tensor, ...]]
    # (*size) → the least that forward and backward can do: elements read and written, arithmetic operations.
    elements: Callable[..., tuple[int, int]]
    flops: Callable[..., tuple[int, int]]
    # (model, tokens) → the size at which a LLaMA-style model calls it.
    model_size: Callable[[Model, int], Size]
    sizes: Mapping[str, Sequence[Size]] = field(default_factory=lambda: ROW_SIZES)
    quick_sizes: Sequence[Size] = QUICK_ROW_SIZES
    headline: Size = HEADLINE
    quick: bool = True  # part of --quick
    # Limited by a matrix product of its sizes [rows, inner, dim], not by memory.
    product: bool = False
    # The matrix product of as many operations as the forward has, where that is another one.
    product_size: Callable[..., Size] = lambda *size: size
    # Rows are left out whose matrix products alone take more seconds.
    slowest: float = 4.0
    # `function` for checks, where that one draws random numbers: the same in every call, and those of `reference`.
    checked: Function | None = None
    long_sums: bool | int = False  # see pylayers.check.compare_call
    # Kernel → (backend, *size, bytes of an element) → what its launches in forward + backward must move: on a GPU, for
    # few rows of whole 16 bytes, as `counted_size` and those of the tests are.
    traffic: Mapping[str, Callable[..., Traffic]] = field(default_factory=dict)
    counted_size: Size = (64, 4096)  # small: an emulated kernel takes seconds
    # Name → what else torch itself has for it, likewise made, on every device.
    rivals: Mapping[str, Callable[[], Function]] = field(default_factory=dict)
    # Package → a function that imports it and returns a function of the inputs.
    peers: Mapping[str, Callable[[], Function]] = field(default_factory=dict)


@dataclass(frozen=True)
class ModuleBenchmark:
    """A module of ours and the one it replaces, called on small inputs: only the cost of the call is left."""

    op: str
    title: str
    ours: Callable[[], torch.nn.Module]
    eager: Callable[[], torch.nn.Module]
    size: Size = (1, 64)
    inputs: int = 1  # of this size each


class Plan(NamedTuple):
    """One step of one benchmark at one size: the unit that the progress bar counts."""

    benchmark: Benchmark
    size: Size
    dtype: torch.dtype
    backward: bool
    compiled: bool

    @property
    def step(self) -> str:
        return "forward + backward" if self.backward else "forward"

    def __str__(self) -> str:
        return f"{self.benchmark.title} {'×'.join(map(str, self.size))} {dtype_name(self.dtype)} {self.step}"


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def random(*size: int, dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> torch.Tensor:
    """Normal values, never zeros, which run faster; the same numbers for every dtype up to its rounding."""
    return torch.randn(*size, device=device, generator=generator).to(dtype)
