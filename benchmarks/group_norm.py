"""GroupNorm of a batch of two [2, rows, dim]: rows channels in up to 32 groups, dim positions, with the gradients of its weight and
bias; with SiLU behind it, as in diffusion models; and with the channels last in memory."""

from __future__ import annotations

import torch
import torch.nn.functional as F

import pylayers
from pylayers import functional, reference

from .harness import Benchmark, Function, ModuleBenchmark, random
from .traffic import ACCUMULATOR, Traffic, ceil_div

BATCH, EPS = 2, 1e-5
HELD, LEAST_SHARE, BLOCKS = 16384, {False: 8192, True: 32}, 8 * 132  # csrc/cuda/parts.h
# Of a UNet at 512 × 512 with 320, 640 and 1280 channels, one input of 64 channels, and a multiple of nothing.
SIZES = {
    "cpu": ((64, 1), (64, 64), (30, 1001), (1280, 256), (640, 1024), (320, 4096), (320, 16384)),
    "cuda": ((64, 1), (64, 64), (30, 1001), (1280, 256), (640, 1024), (320, 4096), (320, 16384), (128, 262144)),
}
HEADLINE = (320, 4096)


def groups_of(channels: int) -> int:
    return max(count for count in range(1, 33) if channels % count == 0)


def first(rows: int, dim: int, **kind):
    return random(BATCH, rows, dim, **kind), random(rows, **kind), random(rows, **kind)


def last(rows: int, dim: int, **kind):
    x, weight, bias = first(rows, dim, **kind)
    return x[..., None].contiguous(memory_format=torch.channels_last), weight, bias


def plain(group_norm: Function) -> Function:
    return lambda x, weight, bias: group_norm(x, groups_of(len(weight)), weight, bias, EPS)


def with_silu(group_norm: Function) -> Function:
    return lambda x, weight, bias: group_norm(x, groups_of(len(weight)), weight, bias, EPS, activation="silu")


def eager_silu(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return F.silu(F.group_norm(x, groups_of(len(weight)), weight, bias, EPS))


def shares(rows: int, dim: int, last: bool) -> int:
    beside = BATCH * ceil_div(rows, 512) if last else BATCH * rows
    return max(1, min(dim // LEAST_SHARE[last], ceil_div(BLOCKS, beside)))


def sums(backend: str, rows: int, dim: int, size: int, last: bool) -> Traffic:
    """Two for each share of a channel, written. A CUDA thread that holds eight channels stores them in two halves."""
    stored = 2 * BATCH * shares(rows, dim, last) * rows * ACCUMULATOR
    return Traffic(0, stored, stored if last and backend == "cuda" and size == 2 else 0)


def merged(rows: int, dim: int, last: bool) -> int:
    """What is read of the sums for the groups. Where the channels are last in memory, other groups are in the same sectors."""
    read = 2 * BATCH * shares(rows, dim, last) * rows * ACCUMULATOR
    return read * max(1, 32 // (rows // groups_of(rows) * ACCUMULATOR)) if last else read


def held(rows: int, dim: int) -> bool:
    return rows // groups_of(rows) * dim <= HELD


def of_channels(size: int, last: bool, *, statistics: int, positions: int = 1) -> float:
    """Bytes that are read beside each number for what belongs to its channel: weight, bias and so many float32. A thread reads
    them once for `positions` of each channel that it has, or, where positions follow each other, for 32 bytes of them."""
    return (statistics * ACCUMULATOR + 2 * size) / (positions if last else 32 // size)


def forward_traffic(last: bool):
    def traffic(backend: str, rows: int, dim: int, size: int) -> Traffic:
        numbers, statistics = BATCH * rows * dim, 2 * BATCH * groups_of(rows) * ACCUMULATOR
        moved = Traffic(numbers * size, numbers * size + statistics, at_most=True)
        if last or not held(rows, dim):
            # x is read twice. Triton reads the means of the channels twice too.
            beside = of_channels(size, last, statistics=2, positions=16 if backend == "cuda" else 2 * size)
            of_groups = merged(rows, dim, last) * (2 if backend == "cuda" else 3) // 2
            return moved + Traffic(numbers * size + int(numbers * beside) + of_groups, 0) + sums(backend, rows, dim, size, last)
        # Weight and bias are read for 16 bytes of x; a Triton program does so for each number.
        return moved + Traffic(2 * size * numbers // (16 // size if backend == "cuda" else 1), 0)

    return traffic


def backward_traffic(last: bool):
    def traffic(backend: str, rows: int, dim: int, size: int) -> Traffic:
        # Grad and x are read twice and dx is written; the sums of the channels are read for the means and for the parameters. Where
        # the channels are last and few, shares are short, and a thread of the first kernel has one or two positions.
        numbers, means = BATCH * rows * dim, 2 * BATCH * groups_of(rows) * ACCUMULATOR
        own = sums(backend, rows, dim, size, last)
        first = of_channels(size, last, statistics=2, positions=size // (2 if backend == "cuda" else 1))
        second = of_channels(size, last, statistics=4, positions=16 if backend == "cuda" else 2 * size)
        of_groups = merged(rows, dim, last) + own.store * size // (2 * ACCUMULATOR)  # with their weights
        moved = Traffic(4 * numbers * size, numbers * size + means + 2 * rows * size, at_most=True)
        return moved + own + Traffic(int(numbers * (first + second)) + of_groups + own.store, 0)

    return traffic


def declare(title: str, call, eager: Function, inputs, **others) -> Benchmark:
    channels_last = inputs is last
    return Benchmark(
        op="group_norm",
        title=title,
        function=call(functional.group_norm),
        reference=call(reference.group_norm),
        eager=eager,
        inputs=inputs,
        # Forward reads x and writes y; backward reads grad and x and writes dx; weight, bias and their gradients are [rows].
        elements=lambda rows, dim: (2 * BATCH * rows * dim + 2 * rows, 3 * BATCH * rows * dim + 3 * rows),
        flops=lambda rows, dim: (7 * BATCH * rows * dim, 14 * BATCH * rows * dim),
        traffic={"group_norm_forward": forward_traffic(channels_last), "group_norm_backward": backward_traffic(channels_last)},
        model_size=lambda model, tokens: (model.dim, tokens),
        sizes=SIZES,
        quick_sizes=((64, 1), HEADLINE),
        headline=HEADLINE,
        # Where few channels have thousands of positions, one or two float32 sums of up to 40000 numbers are compared. The reference
        # errs by more than 11 units of the result in one draw of twenty, by less than a fifth of one in another: where it is lucky,
        # twice its error is no bound for another order.
        long_sums=16,
        **others,
    )


BENCHMARKS = (
    declare("group_norm", plain, plain(F.group_norm), first),
    declare("group_norm silu", with_silu, eager_silu, first),
    declare("group_norm channels last", plain, plain(F.group_norm), last, quick=False),
    declare("group_norm silu channels last", with_silu, eager_silu, last, quick=False),
)

MODULES = (
    ModuleBenchmark(
        op="group_norm",
        title="GroupNorm(32, 64)",
        ours=lambda: pylayers.GroupNorm(32, 64),
        eager=lambda: torch.nn.GroupNorm(32, 64),
    ),
)
