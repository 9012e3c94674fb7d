"""Rotary position embedding of queries and of a quarter as many keys, [1, rows, heads, head_dim]."""

from __future__ import annotations

from functools import cache, partial

import torch

from pylayers import functional, reference

from .harness import Benchmark, Function, random
from .traffic import ACCUMULATOR, Traffic, ceil_div


def split(dim: int) -> tuple[int, int, int]:
    """Heads of q, of k, and their width: the greatest divisor of dim up to 128."""
    head_dim = max(width for width in range(1, 129) if dim % width == 0)
    heads = dim // head_dim
    return heads, max(heads // 4, 1), head_dim


def inputs(rows: int, dim: int, **kind):
    heads, key_heads, head_dim = split(dim)
    return random(1, rows, heads, head_dim, **kind), random(1, rows, key_heads, head_dim, **kind)


@cache
def tables(rows: int, half: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    frequencies = 10000.0 ** (-torch.arange(half, device=device, dtype=torch.float64) / max(half, 1))
    angles = torch.arange(rows, device=device)[:, None] * frequencies
    return angles.cos().float(), angles.sin().float()


@cache
def full_tables(rows: int, half: int, device: torch.device, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """As transformers hands them to every layer."""
    return tuple(torch.cat([one, one], -1).to(dtype)[None, :, None] for one in tables(rows, half, device))


def with_tables(rotary: Function, interleaved: bool) -> Function:
    return lambda q, k: rotary(q, k, *tables(q.shape[1], q.shape[3] // 2, q.device), interleaved=interleaved)


def rotate_half(x: torch.Tensor) -> torch.Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat([-b, a], -1)


def eager(q: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    cos, sin = full_tables(q.shape[1], q.shape[3] // 2, q.device, q.dtype)
    rotated, tail = 2 * (q.shape[3] // 2), q.shape[3] % 2
    if not tail:
        return q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin
    heads = [(x[..., :rotated] * cos + rotate_half(x[..., :rotated]) * sin, x[..., rotated:]) for x in (q, k)]
    return tuple(torch.cat(both, -1) for both in heads)


def eager_interleaved(q: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    cos, sin = tables(q.shape[1], q.shape[3] // 2, q.device)
    turns = torch.complex(cos, sin)[None, :, None]
    return tuple(_by_complex(x, turns) for x in (q, k))


def _by_complex(x: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """As the published LLaMA code does."""
    dtype, rotated = torch.promote_types(x.dtype, torch.float32), 2 * turns.shape[-1]
    pairs = torch.view_as_complex(x[..., :rotated].to(dtype).unflatten(-1, (rotated // 2, 2)).contiguous())
    y = torch.view_as_real(pairs * turns).flatten(-2).to(x.dtype)
    return y if rotated == x.shape[-1] else torch.cat([y, x[..., rotated:]], -1)


def liger_kernel() -> Function:
    from liger_kernel.ops.rope import LigerRopeFunction

    def call(q: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        # It takes heads first, and writes to what it is given; here the caller still needs that.
        cos, sin = (one[:, :, 0] for one in full_tables(q.shape[1], q.shape[3] // 2, q.device, q.dtype))
        turned = LigerRopeFunction.apply(q.transpose(1, 2).clone(), k.transpose(1, 2).clone(), cos, sin)
        return tuple(x.transpose(1, 2) for x in turned)

    return call


def flash_attn(interleaved: bool) -> Function:
    from flash_attn.layers.rotary import apply_rotary_emb

    def call(q: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        own = tables(q.shape[1], q.shape[3] // 2, q.device)
        return tuple(apply_rotary_emb(x, *own, interleaved=interleaved) for x in (q, k))

    return call


def numbers(rows: int, dim: int) -> int:
    """Of q and k."""
    heads, key_heads, head_dim = split(dim)
    return rows * (heads + key_heads) * head_dim


def traffic(backend: str, rows: int, dim: int, size: int) -> Traffic:
    """Forward and backward, a launch each. Who takes several heads of a token reads its row of the tables once for them."""
    heads, key_heads, head_dim = split(dim)
    if backend == "cuda":
        readers = ceil_div(heads + key_heads, 4)  # four heads a thread where there are few rows
    else:
        readers = 2 * (ceil_div(heads, 8) + ceil_div(key_heads, 8))  # a program has twice the threads that its rows need
    read = readers * rows * 2 * (head_dim // 2) * ACCUMULATOR
    moved = numbers(rows, dim) * size
    return Traffic(load=2 * (moved + read), store=2 * moved, at_most=True)


def declare(title: str, interleaved: bool, eager: Function, peers: dict) -> Benchmark:
    return Benchmark(
        op="rotary",
        title=title,
        function=with_tables(functional.rotary, interleaved),
        reference=with_tables(reference.rotary, interleaved),
        eager=eager,
        inputs=inputs,
        # Forward reads q, k and both tables and writes as many numbers as q and k have; backward does the same.
        elements=lambda rows, dim: (2 * numbers(rows, dim) + rows * split(dim)[2],) * 2,
        flops=lambda rows, dim: (3 * numbers(rows, dim),) * 2,
        traffic={"rotary": traffic},
        model_size=lambda model, tokens: (tokens, model.dim),
        quick=not interleaved,
        peers=peers,
    )


BENCHMARKS = (
    declare("rotary", False, eager, {"liger_kernel": liger_kernel, "flash_attn": partial(flash_attn, False)}),
    declare("rotary interleaved", True, eager_interleaved, {"flash_attn": partial(flash_attn, True)}),
)

MODULES = ()
