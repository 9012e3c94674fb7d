"""Times competitors in turn, so that whatever disturbs the machine disturbs all of them."""

from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from itertools import repeat

import torch

from .records import Timing

# A sample is as many calls as fill this, so that reading the clock costs nothing beside them.
SAMPLE_SECONDS = 500e-6
MAX_ROUNDS = 300
# The first calls after others may wait for the machine to find memory: several times what they take from then on. Calls that
# take more than the budget are made twice only, much longer ones once.
WARM_UP = 4
# Slow cases and busy machines: past this many budgets, the least number of rounds must do.
MIN_ROUNDS = 3
LATEST = 4.0


@dataclass(frozen=True)
class Variant:
    """One competitor: `call` is timed inside `scope`, whose own cost is outside the clock."""

    name: str
    role: str
    call: Callable[[], object]
    scope: Callable[[], AbstractContextManager] = nullcontext
    scale: float = 1.0  # times are multiplied by it: a roof may be measured on a part of the bytes


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def without_gc():
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def wall_times(
    variants: Sequence[Variant], device: torch.device, *, budget: float = 0.5, min_rounds: int = 5
) -> dict[str, Timing]:
    """Seconds that a caller waits per call, every variant once per round, in a new order each round."""

    def sample(variant: Variant, calls: int) -> float:
        with variant.scope():
            synchronize(device)
            start = time.perf_counter_ns()
            for _ in repeat(None, calls):
                variant.call()
            synchronize(device)
            return (time.perf_counter_ns() - start) * 1e-9 / calls

    return _in_turn(variants, sample, budget, min_rounds)


def kernel_times(
    variants: Sequence[Sequence[Variant]], *, budget: float = 0.5, min_rounds: int = 10
) -> dict[str, Timing]:
    """Seconds per call on the GPU alone: a CUDA graph leaves no gap between kernels for the host to fill.

    `variants` holds one list per set of inputs. A graph calls one variant once on each set, so that with enough sets
    no call finds its inputs in the cache. A variant that cannot be captured, because it waits for the GPU, is left out.
    """
    graphs = {}
    for same in zip(*variants):
        with suppress(RuntimeError), same[0].scope():
            graphs[same[0].name] = _captured([variant.call for variant in same])
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

    def sample(variant: Variant, replays: int) -> float:
        torch.cuda.synchronize()
        start.record()
        for _ in repeat(None, replays):
            graphs[variant.name].replay()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) * 1e-3 / replays / len(variants)

    return _in_turn([variant for variant in variants[0] if variant.name in graphs], sample, budget, min_rounds)


def _in_turn(
    variants: Sequence[Variant], sample: Callable[[Variant, int], float], budget: float, min_rounds: int
) -> dict[str, Timing]:
    """The first samples are not kept: they warm up, and find out how many calls fill one."""
    with without_gc():
        rough = {}
        for variant in variants:
            seconds = sample(variant, 1)
            for _ in range(0 if seconds > LATEST * budget else 1 if seconds > budget else WARM_UP - 1):
                seconds = min(seconds, sample(variant, 1))
            rough[variant.name] = max(sample(variant, 10) if seconds < SAMPLE_SECONDS else seconds, 1e-9)
        calls = {name: max(1, math.ceil(SAMPLE_SECONDS / seconds)) for name, seconds in rough.items()}
        round_seconds = sum(rough[name] * calls[name] for name in rough)
        rounds = max(min_rounds, min(MAX_ROUNDS, int(budget / round_seconds)))
        latest = time.perf_counter() + LATEST * budget
        samples: dict[str, list[float]] = {variant.name: [] for variant in variants}
        order, shuffle = list(variants), random.Random(0).shuffle
        for done in range(rounds):
            if done >= MIN_ROUNDS and time.perf_counter() > latest:
                break
            shuffle(order)
            for variant in order:
                samples[variant.name].append(sample(variant, calls[variant.name]) * variant.scale)
    return {name: Timing.of(values) for name, values in samples.items()}


def _captured(calls: Sequence[Callable[[], object]]) -> torch.cuda.CUDAGraph:
    # Backward kernels run on the stream of their forward, so warm-up and capture share one stream.
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for call in calls:
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for call in calls:
            call()
    return graph
