"""y = x · rstd · w, rstd = 1 / √(mean(x²) + eps), w = offset + weight.

With n = x · rstd: dx = rstd · (grad · w − n · mean(grad · w · n)), dweight = Σ_rows grad · n.

A program holds whole rows in registers: forward reads x and writes y, backward reads x and grad and writes dx, each
once. In backward it walks down its share of the rows and adds up its row of partial on the way. Rows too wide for
registers are walked along in pieces, twice, the second time mostly out of the L2 cache; their dweight is a kernel of
its own, which reads x and grad once more.
"""
import triton
import triton.language as tl

from .device import accumulator, load, multiple
from .launch import TILE, align, ceil_div, launch, tile
from .parts import share_at, share_rows, sum_parts

WIDEST_FORWARD, WIDEST_BACKWARD = 16384, 8192


@triton.jit
def scale(weight, col, live, offset, acc: tl.constexpr):
    """w, or 1 where there is no weight."""
    w = tl.full((), 1.0, acc)
    if weight is not None:
        w = load(weight, col, live, acc) + tl.full((), offset, acc)
    return w


@triton.jit
def forward_kernel(y, rstd, x, weight, x_row, rows, dim, eps: tl.float64, offset: tl.float64, ALIGN: tl.constexpr,
                   BLOCK_ROWS: tl.constexpr, BLOCK_DIM: tl.constexpr):
    acc: tl.constexpr = accumulator(y)
    dim = multiple(dim, ALIGN)
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    col = tl.arange(0, BLOCK_DIM)
    live = (row < rows)[:, None] & (col < dim)[None, :]
    xs = load(x, row[:, None] * multiple(x_row, ALIGN) + col[None, :], live, acc)
    r = tl.rsqrt(tl.sum(xs * xs, 1) / dim + tl.full((), eps, acc))
    if rstd is not None:
        tl.store(rstd + row, r, mask=row < rows)
    w = scale(weight, col[None, :], (col < dim)[None, :], offset, acc)
    tl.store(y + row[:, None] * dim + col[None, :], xs * r[:, None] * w, mask=live)


@triton.jit
def forward_wide_kernel(y, rstd, x, weight, x_row, dim, eps: tl.float64, offset: tl.float64, ALIGN: tl.constexpr,
                        BLOCK_DIM: tl.constexpr):
    acc: tl.constexpr = accumulator(y)
    dim = multiple(dim, ALIGN)
    row = tl.program_id(0).to(tl.int64)
    x += row * multiple(x_row, ALIGN)
    y += row * dim
    squares = tl.zeros((BLOCK_DIM,), acc)
    for start in range(0, dim, BLOCK_DIM):
        col = start + tl.arange(0, BLOCK_DIM)
        xs = load(x, col, col < dim, acc)
        squares += xs * xs
    r = tl.rsqrt(tl.sum(squares, 0) / dim + tl.full((), eps, acc))
    if rstd is not None:
        tl.store(rstd + row, r)
    for start in range(0, dim, BLOCK_DIM):
        col = start + tl.arange(0, BLOCK_DIM)
        live = col < dim
        tl.store(y + col, load(x, col, live, acc) * r * scale(weight, col, live, offset, acc), mask=live)


def rms_norm_forward(y, rstd, x, weight, eps, offset):
    (rows, dim), x_row = x.shape, x.stride(0)
    aligned = align(dim, x_row)
    blocks = tile(x, rows, dim, WIDEST_FORWARD, per_thread=32)
    if dim <= blocks["BLOCK_DIM"]:
        launch(x, forward_kernel, ceil_div(rows, blocks["BLOCK_ROWS"]), y, rstd, x, weight, x_row, rows, dim, eps,
               offset, aligned, **blocks)
    else:
        launch(x, forward_wide_kernel, rows, y, rstd, x, weight, x_row, dim, eps, offset, aligned, BLOCK_DIM=TILE,
               num_warps=8)


@triton.jit
def backward_kernel(dx, partial, grad, x, weight, rstd, grad_row, x_row, rows, dim, share, offset: tl.float64,
                    ALIGN: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_DIM: tl.constexpr):
    acc: tl.constexpr = accumulator(grad)
    dim = multiple(dim, ALIGN)
    part, first, last, col = share_at(tl.program_id(0), rows, dim, share, BLOCK_DIM)
    w = scale(weight, col[None, :], (col < dim)[None, :], offset, acc)
    sums = tl.zeros((BLOCK_ROWS, BLOCK_DIM), acc)
    for start in tl.range(first, last, BLOCK_ROWS, num_stages=2):
        row = start + tl.arange(0, BLOCK_ROWS)
        live = (row < last)[:, None] & (col < dim)[None, :]
        g = load(grad, row[:, None] * multiple(grad_row, ALIGN) + col[None, :], live, acc)
        r = load(rstd, row, row < last, acc)[:, None]
        n = load(x, row[:, None] * multiple(x_row, ALIGN) + col[None, :], live, acc) * r
        if partial is not None:
            sums += g * n
        if dx is not None:
            mean = tl.sum(g * w * n, 1, keep_dims=True) / dim
            tl.store(dx + row[:, None] * dim + col[None, :], r * (g * w - n * mean), mask=live)
    if partial is not None:
        tl.store(partial + part * dim + col, tl.sum(sums, 0), mask=col < dim)


@triton.jit
def backward_wide_kernel(dx, grad, x, weight, rstd, grad_row, x_row, dim, offset: tl.float64, ALIGN: tl.constexpr,
                         BLOCK_DIM: tl.constexpr):
    acc: tl.constexpr = accumulator(grad)
    dim = multiple(dim, ALIGN)
    row = tl.program_id(0).to(tl.int64)
    grad += row * multiple(grad_row, ALIGN)
    x += row * multiple(x_row, ALIGN)
    dx += row * dim
    r = tl.load(rstd + row)
    products = tl.zeros((BLOCK_DIM,), acc)
    for start in range(0, dim, BLOCK_DIM):
        col = start + tl.arange(0, BLOCK_DIM)
        live = col < dim
        g = load(grad, col, live, acc) * scale(weight, col, live, offset, acc)
        products += g * load(x, col, live, acc) * r
    mean = tl.sum(products, 0) / dim
    for start in range(0, dim, BLOCK_DIM):
        col = start + tl.arange(0, BLOCK_DIM)
        live = col < dim
        g = load(grad, col, live, acc) * scale(weight, col, live, offset, acc)
        tl.store(dx + col, r * (g - load(x, col, live, acc) * r * mean), mask=live)


@triton.jit
def partial_wide_kernel(partial, grad, x, rstd, grad_row, x_row, rows, dim, share, ALIGN: tl.constexpr,
                        BLOCK_ROWS: tl.constexpr, BLOCK_DIM: tl.constexpr):
    acc: tl.constexpr = accumulator(grad)
    dim = multiple(dim, ALIGN)
    part, first, last, col = share_at(tl.program_id(0), rows, dim, share, BLOCK_DIM)
    sums = tl.zeros((BLOCK_ROWS, BLOCK_DIM), acc)
    for start in tl.range(first, last, BLOCK_ROWS, num_stages=2):
        row = start + tl.arange(0, BLOCK_ROWS)
        live = (row < last)[:, None] & (col < dim)[None, :]
        g = load(grad, row[:, None] * multiple(grad_row, ALIGN) + col[None, :], live, acc)
        n = load(x, row[:, None] * multiple(x_row, ALIGN) + col[None, :], live, acc)
        sums += g * (n * load(rstd, row, row < last, acc)[:, None])
    tl.store(partial + part * dim + col, tl.sum(sums, 0), mask=col < dim)


def rms_norm_backward(dx, dweight, partial, grad, x, weight, rstd, offset):
    (rows, dim), strides = x.shape, (grad.stride(0), x.stride(0))
    aligned = align(dim, *strides)
    parts, share, blocks = share_rows(x, partial, WIDEST_BACKWARD)
    if dim <= blocks["BLOCK_DIM"]:
        launch(x, backward_kernel, parts, dx, partial, grad, x, weight, rstd, *strides, rows, dim, share, offset,
               aligned, **blocks)
    else:
        if dx is not None:
            launch(x, backward_wide_kernel, rows, dx, grad, x, weight, rstd, *strides, dim, offset, aligned,
                   BLOCK_DIM=TILE, num_warps=8)
        if partial is not None:
            parts, share, blocks = share_rows(x, partial, TILE)
            launch(x, partial_wide_kernel, parts * ceil_div(dim, blocks["BLOCK_DIM"]), partial, grad, x, rstd, *strides,
                   rows, dim, share, aligned, **blocks)
    if dweight is not None:
        sum_parts(dweight, partial)
