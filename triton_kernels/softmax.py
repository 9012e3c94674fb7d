"""y = eˣ / Σ eˣ or x − ln Σ eˣ over the row, and the softmax of scaled and masked scores; backward from y:
dx = scale · y · (grad − Σ grad · y), with log dx = grad − eʸ · Σ grad.

A program holds whole rows in registers: forward reads x and mask and writes y, backward reads y and grad and writes dx,
each once. Rows too wide for registers are walked along in pieces, twice, forward with a running maximum for each column
of a piece; so are the columns of [outer, dim, inner], for a dimension that is not the last. What causal hides is not read.
"""
import torch
import triton
import triton.language as tl

from .device import accumulator, load, multiple
from .launch import TILE, align, ceil_div, launch, power_of_two, tile

WIDEST = 16384
INFINITY = tl.constexpr(float("inf"))


@triton.jit
def logarithm(x):
    """ln x for normal numbers, nan for nan. Not tl.log, which is a call of libdevice: from the exponent's bits, and Halley's step
    for eʸ = x three times."""
    if x.dtype == tl.float64:
        y = (x.to(tl.int64, bitcast=True).to(tl.float64) * 2.0**-52 - 1023) * 0.6931471805599453
    else:
        y = (x.to(tl.int32, bitcast=True).to(tl.float32) * 2.0**-23 - 127) * 0.6931471805599453
    for _ in tl.static_range(3):
        e = tl.exp(y)
        y += 2 * (x - e) / (x + e)
    return y


@triton.jit
def shift_of(top):
    """What is subtracted before exponentiation: the largest score, but 0 where all are −inf."""
    return tl.where(top == -INFINITY, 0.0, top)


@triton.jit
def finish(s, total, OF_NOTHING: tl.constexpr, LOG: tl.constexpr):
    """y from scores without their shift and the sum of their exponentials."""
    if LOG:
        y = s - tl.where(total == 0, OF_NOTHING, logarithm(total))
    else:
        y = tl.exp(s) * tl.where(total == 0, OF_NOTHING, 1 / total)
    return y


@triton.jit
def live_columns(row, dim, queries, CAUSAL: tl.constexpr):
    """How many columns of a row a query sees."""
    live = row * 0 + dim
    if CAUSAL:
        live = tl.minimum(row % queries + dim - queries + 1, live)
    return live


@triton.jit
def reach(live, ALIGN: tl.constexpr):
    """How many columns are read for the first `live`: up to a multiple that keeps accesses wide."""
    return (live + ALIGN - 1) // ALIGN * ALIGN


@triton.jit
def mask_offset(row, queries, inner, mask_outer, mask_inner, mask_query, ALIGN: tl.constexpr):
    matrix = row // queries
    outside = matrix // inner * multiple(mask_outer, ALIGN) + matrix % inner * multiple(mask_inner, ALIGN)
    return outside + row % queries * multiple(mask_query, ALIGN)


@triton.jit
def scores(x, mask, allowed, x_at, mask_at, read, live, scale, acc: tl.constexpr):
    """scale · x + mask where live, −inf elsewhere. read: what may be read, live and more."""
    s = load(x, x_at, read, acc) * tl.full((), scale, acc)
    if mask is not None:
        s += load(mask, mask_at, read, acc)
    if allowed is not None:
        # As many at a time as of x, as far as the compiler sees: with 16 bytes of these, the accesses to x would have gaps.
        some: tl.constexpr = 128 // x.dtype.element_ty.primitive_bitwidth
        mask_at = mask_at // some * some + mask_at % some
        live = live & (tl.load(allowed + mask_at, mask=read, other=0) != 0)
    return tl.where(live, s, -INFINITY)


@triton.jit
def forward_kernel(y, x, mask, allowed, x_row, mask_outer, mask_inner, mask_query, rows, dim, queries, inner,
                   scale: tl.float64, OF_NOTHING: tl.constexpr, LOG: tl.constexpr, CAUSAL: tl.constexpr,
                   ALIGN: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_DIM: tl.constexpr):
    acc: tl.constexpr = accumulator(y)
    dim = multiple(dim, ALIGN)
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    col = tl.arange(0, BLOCK_DIM)[None, :]
    there = (row < rows)[:, None]
    live = live_columns(row, dim, queries, CAUSAL)[:, None]
    mask_at = mask_offset(row, queries, inner, mask_outer, mask_inner, mask_query, ALIGN)[:, None] + col
    s = scores(x, mask, allowed, row[:, None] * multiple(x_row, ALIGN) + col, mask_at, there & (col < reach(live, ALIGN)),
               there & (col < live), scale, acc)
    s -= shift_of(tl.max(s, 1))[:, None]
    total = tl.sum(tl.exp(s), 1)[:, None]
    tl.store(y + row[:, None] * dim + col, finish(s, total, OF_NOTHING, LOG), mask=there & (col < dim))


@triton.jit
def forward_wide_kernel(y, x, mask, allowed, x_row, mask_outer, mask_inner, mask_query, dim, queries, inner,
                        scale: tl.float64, OF_NOTHING: tl.constexpr, LOG: tl.constexpr, CAUSAL: tl.constexpr,
                        ALIGN: tl.constexpr, BLOCK_DIM: tl.constexpr):
    acc: tl.constexpr = accumulator(y)
    dim = multiple(dim, ALIGN)
    row = tl.program_id(0).to(tl.int64)
    x += row * multiple(x_row, ALIGN)
    y += row * dim
    mask_row = mask_offset(row, queries, inner, mask_outer, mask_inner, mask_query, ALIGN)
    live = live_columns(row, dim, queries, CAUSAL)
    tops, totals = tl.full((BLOCK_DIM,), -INFINITY, acc), tl.zeros((BLOCK_DIM,), acc)
    for start in range(0, live, BLOCK_DIM):
        col = start + tl.arange(0, BLOCK_DIM)
        s = scores(x, mask, allowed, col, mask_row + col, col < reach(live, ALIGN), col < live, scale, acc)
        larger = tl.where(tops < s, s, tops)
        totals = totals * tl.exp(tops - shift_of(larger)) + tl.exp(s - shift_of(larger))
        tops = larger
    top = tl.max(tops, 0)
    total = tl.sum(totals * tl.exp(tops - shift_of(top)), 0)
    for start in range(0, dim, BLOCK_DIM):
        col = start + tl.arange(0, BLOCK_DIM)
        s = scores(x, mask, allowed, col, mask_row + col, col < reach(live, ALIGN), col < live, scale, acc)
        tl.store(y + col, finish(s - shift_of(top), total, OF_NOTHING, LOG), mask=col < dim)


def forward(y, x, mask, allowed, scale, queries, causal, log, of_nothing):
    (rows, dim), x_row = x.shape, x.stride(0)
    if allowed is not None:
        allowed = allowed.view(torch.uint8)  # Triton reads bools one by one
    given = mask if mask is not None else allowed
    inner, strides = (1, (0, 0, 0)) if given is None else (given.shape[1], given.stride()[:3])
    aligned = align(dim, x_row, *strides)
    blocks = tile(x, rows, dim, WIDEST, per_thread=32)
    if dim <= blocks["BLOCK_DIM"]:
        launch(x, forward_kernel, ceil_div(rows, blocks["BLOCK_ROWS"]), y, x, mask, allowed, x_row, *strides, rows, dim,
               queries, inner, scale, of_nothing, log, causal, aligned, **blocks)
    else:
        launch(x, forward_wide_kernel, rows, y, x, mask, allowed, x_row, *strides, dim, queries, inner, scale,
               of_nothing, log, causal, aligned, BLOCK_DIM=TILE, num_warps=8)


def softmax_forward(y, x, log):
    forward(y, x, None, None, 1.0, 1, 0, log, float("nan"))


def softmax_masked_forward(y, x, mask, allowed, scale, queries, causal):
    forward(y, x, mask, allowed, scale, queries, causal, 0, 0.0)


@triton.jit
def term(g, a, LOG: tl.constexpr):
    return g if LOG else g * a


@triton.jit
def seen(grad, at, there, col, live, acc: tl.constexpr, CAUSAL: tl.constexpr, ALIGN: tl.constexpr):
    """grad, but 0 from column `live` on, where it may be anything."""
    g = load(grad, at, there & (col < reach(live, ALIGN)), acc)
    if CAUSAL:
        g = tl.where(col < live, g, 0.0)
    return g


@triton.jit
def gradient(g, a, dot, scale, LOG: tl.constexpr):
    if LOG:
        g -= tl.exp(a) * dot
    else:
        g = a * ((g - dot) * tl.full((), scale, g.dtype))
    return g


@triton.jit
def backward_kernel(dx, grad, y, grad_row, y_row, rows, dim, queries, scale: tl.float64, LOG: tl.constexpr,
                    CAUSAL: tl.constexpr, ALIGN: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_DIM: tl.constexpr):
    acc: tl.constexpr = accumulator(dx)
    dim = multiple(dim, ALIGN)
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    col = tl.arange(0, BLOCK_DIM)[None, :]
    there = (row < rows)[:, None]
    live = live_columns(row, dim, queries, CAUSAL)[:, None]
    g = seen(grad, row[:, None] * multiple(grad_row, ALIGN) + col, there, col, live, acc, CAUSAL, ALIGN)
    a = load(y, row[:, None] * multiple(y_row, ALIGN) + col, there & (col < reach(live, ALIGN)), acc)
    dot = tl.sum(term(g, a, LOG), 1)[:, None]
    tl.store(dx + row[:, None] * dim + col, gradient(g, a, dot, scale, LOG), mask=there & (col < dim))


@triton.jit
def backward_wide_kernel(dx, grad, y, grad_row, y_row, dim, queries, scale: tl.float64, LOG: tl.constexpr,
                         CAUSAL: tl.constexpr, ALIGN: tl.constexpr, BLOCK_DIM: tl.constexpr):
    acc: tl.constexpr = accumulator(dx)
    dim = multiple(dim, ALIGN)
    row = tl.program_id(0).to(tl.int64)
    grad += row * multiple(grad_row, ALIGN)
    y += row * multiple(y_row, ALIGN)
    dx += row * dim
    live = live_columns(row, dim, queries, CAUSAL)
    dots = tl.zeros((BLOCK_DIM,), acc)
    for start in range(0, live, BLOCK_DIM):
        col = start + tl.arange(0, BLOCK_DIM)
        g, a = seen(grad, col, True, col, live, acc, CAUSAL, ALIGN), load(y, col, col < reach(live, ALIGN), acc)
        dots += term(g, a, LOG)
    dot = tl.sum(dots, 0)
    for start in range(0, dim, BLOCK_DIM):
        col = start + tl.arange(0, BLOCK_DIM)
        g, a = seen(grad, col, True, col, live, acc, CAUSAL, ALIGN), load(y, col, col < reach(live, ALIGN), acc)
        tl.store(dx + col, gradient(g, a, dot, scale, LOG), mask=col < dim)


def backward(dx, grad, y, scale, queries, causal, log):
    (rows, dim), strides = y.shape, (grad.stride(0), y.stride(0))
    aligned = align(dim, *strides)
    blocks = tile(y, rows, dim, WIDEST // 2, per_thread=16)
    if dim <= blocks["BLOCK_DIM"]:
        launch(y, backward_kernel, ceil_div(rows, blocks["BLOCK_ROWS"]), dx, grad, y, *strides, rows, dim, queries,
               scale, log, causal, aligned, **blocks)
    else:
        launch(y, backward_wide_kernel, rows, dx, grad, y, *strides, dim, queries, scale, log, causal, aligned,
               BLOCK_DIM=TILE, num_warps=8)


def softmax_backward(dx, grad, y, log):
    backward(dx, grad, y, 1.0, 1, 0, log)


def softmax_masked_backward(dx, grad, y, scale, queries, causal):
    backward(dx, grad, y, scale, queries, causal, 0)


@triton.jit
def columns_at(index, dim, inner, BLOCK_DIM: tl.constexpr, BLOCK_INNER: tl.constexpr):
    """Where the first piece of a program's columns lies, and which of its columns there are."""
    across = tl.cdiv(inner, BLOCK_INNER)
    col = (index % across).to(tl.int64) * BLOCK_INNER + tl.arange(0, BLOCK_INNER)
    row = tl.arange(0, BLOCK_DIM)
    at = ((index // across).to(tl.int64) * dim + row[:, None]) * inner + col[None, :]
    return at, row, (col < inner)[None, :]


@triton.jit
def columns_forward_kernel(y, x, dim, inner, LOG: tl.constexpr, ALIGN: tl.constexpr, BLOCK_DIM: tl.constexpr,
                           BLOCK_INNER: tl.constexpr):
    acc: tl.constexpr = accumulator(y)
    inner = multiple(inner, ALIGN)
    at, row, there = columns_at(tl.program_id(0), dim, inner, BLOCK_DIM, BLOCK_INNER)
    tops, totals = tl.full((BLOCK_DIM, BLOCK_INNER), -INFINITY, acc), tl.zeros((BLOCK_DIM, BLOCK_INNER), acc)
    for start in range(0, dim, BLOCK_DIM):
        live = (start + row < dim)[:, None] & there
        s = tl.where(live, load(x, at + start * inner, live, acc), -INFINITY)
        larger = tl.where(tops < s, s, tops)
        totals = totals * tl.exp(tops - shift_of(larger)) + tl.exp(s - shift_of(larger))
        tops = larger
    shift = shift_of(tl.max(tops, 0))[None, :]
    total = tl.sum(totals * tl.exp(tops - shift), 0)[None, :]
    for start in range(0, dim, BLOCK_DIM):
        live = (start + row < dim)[:, None] & there
        s = load(x, at + start * inner, live, acc) - shift
        tl.store(y + at + start * inner, finish(s, total, float("nan"), LOG), mask=live)


@triton.jit
def columns_backward_kernel(dx, grad, y, dim, inner, LOG: tl.constexpr, ALIGN: tl.constexpr, BLOCK_DIM: tl.constexpr,
                            BLOCK_INNER: tl.constexpr):
    acc: tl.constexpr = accumulator(dx)
    inner = multiple(inner, ALIGN)
    at, row, there = columns_at(tl.program_id(0), dim, inner, BLOCK_DIM, BLOCK_INNER)
    dots = tl.zeros((BLOCK_DIM, BLOCK_INNER), acc)
    for start in range(0, dim, BLOCK_DIM):
        live = (start + row < dim)[:, None] & there
        g, a = load(grad, at + start * inner, live, acc), load(y, at + start * inner, live, acc)
        dots += term(g, a, LOG)
    dot = tl.sum(dots, 0)[None, :]
    for start in range(0, dim, BLOCK_DIM):
        live = (start + row < dim)[:, None] & there
        g, a = load(grad, at + start * inner, live, acc), load(y, at + start * inner, live, acc)
        tl.store(dx + at + start * inner, gradient(g, a, dot, 1.0, LOG), mask=live)


def run_columns(kernel, log, *tensors):
    """128 bytes of neighbouring columns a program, and as many rows at a time as make a tile: of one matrix 16 numbers a thread, of
    two 8 of each."""
    outer, dim, inner = tensors[0].shape
    size = tensors[0].element_size()
    block_inner = min(power_of_two(inner), max(128 // size, 16))
    block_dim = min(power_of_two(dim), 16384 // size // block_inner)
    num_warps = min(max(block_dim * block_inner // (512 if len(tensors) == 2 else 256), 1), 16)
    launch(tensors[0], kernel, outer * ceil_div(inner, block_inner), *tensors, dim, inner, log, align(inner),
           BLOCK_DIM=block_dim, BLOCK_INNER=block_inner, num_warps=num_warps)


def softmax_columns_forward(y, x, log):
    run_columns(columns_forward_kernel, log, y, x)


def softmax_columns_backward(dx, grad, y, log):
    run_columns(columns_backward_kernel, log, dx, grad, y)
