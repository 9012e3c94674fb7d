"""Softmax along the last and the first dimension, and of attention scores with a bias, a bool mask and a causal one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F

import pylayers
from pylayers import functional, reference

from .harness import Benchmark, Function, ModuleBenchmark, Size, random
from .traffic import Traffic

SCALE = 0.125
HEADS = 4
# Rows are the queries of several heads, with as many keys as queries.
CAUSAL_HEADLINE = (4096, 2048)
CAUSAL_SIZES: Mapping[str, Sequence[Size]] = {
    "cpu": ((64, 64), (1024, 512), CAUSAL_HEADLINE),
    "cuda": ((64, 64), (1024, 512), CAUSAL_HEADLINE, (65536, 4096)),
}


def inputs(rows: int, dim: int, **kind):
    return (random(rows, dim, **kind),)


def along(dim: int, function: Function) -> Function:
    return lambda x: function(x, dim)


def by_head(x: torch.Tensor) -> torch.Tensor:
    """[heads, queries, keys] of [rows, dim]."""
    rows, dim = x.shape
    heads = rows // dim if rows % dim == 0 else HEADS if rows % HEADS == 0 else 1
    return x.view(heads, rows // heads, dim)


def distance_bias(x: torch.Tensor) -> torch.Tensor:
    """Of [queries, keys], the same for all heads. Numbers that every dtype holds."""
    queries, keys = x.shape[1:]
    query, key = (torch.arange(n, device=x.device, dtype=torch.float32) / n for n in (queries, keys))
    return (key - query[:, None]).abs().neg().bfloat16().to(x.dtype)


def not_later(x: torch.Tensor) -> torch.Tensor:
    """True where a query may attend a key, the last of both being one moment."""
    queries, keys = x.shape[1:]
    return torch.ones(queries, keys, dtype=torch.bool, device=x.device).tril(keys - queries)


def with_mask(function: Function, make: Callable[[torch.Tensor], torch.Tensor]) -> Function:
    """Of scores alone: the mask is made once for each size, outside what is timed."""
    masks: dict[tuple, torch.Tensor] = {}

    def call(x: torch.Tensor) -> torch.Tensor:
        scores = by_head(x)
        key = (scores.shape, x.dtype, x.device)
        if key not in masks:
            masks[key] = make(scores.detach())
        return function(scores, masks[key])

    return call


def eager_biased(x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return torch.softmax(x * SCALE + bias, -1)


def eager_allowed(x: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
    return torch.softmax((x * SCALE).masked_fill(~allowed, -torch.inf), -1)


def causal(function: Function) -> Function:
    return lambda x: function(by_head(x), None, SCALE, True)


def liger_kernel() -> Function:
    from liger_kernel.ops.softmax import LigerSoftmaxFunction

    return LigerSoftmaxFunction.apply


def quack() -> Function:
    from quack import softmax

    return softmax


def moves(loaded: int, stored: int = 1, extra: int = 0) -> Callable[..., Traffic]:
    """So many matrices; extra: bytes that are loaded beside each number."""
    return lambda backend, rows, dim, size: Traffic((loaded * size + extra) * rows * dim, stored * rows * dim * size)


def declare(title: str, **others) -> Benchmark:
    return Benchmark(
        op="softmax",
        title=title,
        inputs=inputs,
        flops=lambda rows, dim: (5 * rows * dim, 9 * rows * dim),
        model_size=lambda model, tokens: (tokens, model.dim),
        **others,
    )


# Forward reads x and writes y; backward reads grad and y and writes dx.
ELEMENTS = lambda rows, dim: (2 * rows * dim, 3 * rows * dim)


def declare_plain(title: str, dim: int, eager: Function, traffic: dict, **others) -> Benchmark:
    name = title.split()[0]
    ours, exact = getattr(functional, name), getattr(reference, name)
    functions = dict(function=along(dim, ours), reference=along(dim, exact), eager=along(dim, eager))
    return declare(title, elements=ELEMENTS, traffic=traffic, **functions, **others)


def declare_masked(title: str, make: Callable, eager: Function, extra: int, **others) -> Benchmark:
    ours, exact = (partial(module.scaled_masked_softmax, scale=SCALE) for module in (functional, reference))
    return declare(
        title,
        function=with_mask(ours, make),
        reference=with_mask(exact, make),
        eager=with_mask(eager, make),
        quick=False,
        **others,
        traffic={
            "softmax_masked_forward": moves(1 if extra else 2, extra=extra),
            "softmax_masked_backward": moves(2),
        },
    )


ROWS = {"softmax_forward": moves(1), "softmax_backward": moves(2)}
# What is not the last dimension is read twice.
COLUMNS = {"softmax_columns_forward": moves(2), "softmax_columns_backward": moves(4)}

BENCHMARKS = (
    declare_plain("softmax", -1, F.softmax, ROWS, peers={"liger_kernel": liger_kernel, "quack": quack}),
    declare_plain("log_softmax", -1, F.log_softmax, ROWS, quick=False),
    declare_plain("softmax dim 0", 0, F.softmax, COLUMNS, quick=False),
    declare_masked(
        "scaled_masked_softmax",
        distance_bias,
        eager_biased,
        extra=0,
        elements=lambda rows, dim: (2 * rows * dim + rows * dim // HEADS, 3 * rows * dim),
    ),
    declare_masked("scaled_masked_softmax bool", not_later, eager_allowed, extra=1, elements=ELEMENTS),
    # What is moved depends on the number of queries: half of the keys are not read.
    declare(
        "scaled_masked_softmax causal",
        function=causal(functional.scaled_masked_softmax),
        reference=causal(reference.scaled_masked_softmax),
        eager=with_mask(eager_allowed, not_later),
        elements=lambda rows, dim: (3 * rows * dim // 2, 2 * rows * dim),
        sizes=CAUSAL_SIZES,
        headline=CAUSAL_HEADLINE,
        quick=False,
    ),
)

MODULES = (
    ModuleBenchmark(
        op="softmax",
        title="Softmax(-1)",
        ours=lambda: pylayers.Softmax(-1),
        eager=lambda: torch.nn.Softmax(-1),
    ),
)
