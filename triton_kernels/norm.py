"""Normalisation of rows: y = n · w + bias, n = (x − mean) · rstd, rstd = 1 / √(mean((x − mean)²) + eps), w = offset + weight.

With g = grad · w: d = rstd · (g − mean(g) − n · mean(g · n)), dweight = Σ_rows grad · n, dbias = Σ_rows grad. A norm that is
not CENTRED takes 0 for mean and mean(g). Where there is a residual, x + residual is normalised, as it is rounded in total,
and its incoming gradient is added to d.

A program holds whole rows in registers: each matrix is read once or written once. In backward it walks down its share of
the rows and adds up its rows of the partial sums on the way. Rows too wide for registers are walked along in pieces, twice,
the second time mostly out of the L2 cache; their sums over rows are a kernel of its own, which reads once more.
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
def take(total, x, residual, x_at, residual_at, total_at, live, acc: tl.constexpr):
    """What is normalised: x, or x + residual, which is stored."""
    xs = load(x, x_at, live, acc)
    if residual is not None:
        sums = (xs + load(residual, residual_at, live, acc)).to(total.dtype.element_ty)
        tl.store(total + total_at, sums, mask=live)
        xs = sums.to(acc)
    return xs


@triton.jit
def finish(xs, mean, r, weight, bias, col, live, offset, acc: tl.constexpr):
    y = (xs - mean) * r * scale(weight, col, live, offset, acc)
    if bias is not None:
        y += load(bias, col, live, acc)
    return y


@triton.jit
def forward_kernel(y, total, mean, rstd, x, residual, weight, bias, x_row, residual_row, rows, dim, eps: tl.float64,
                   offset: tl.float64, CENTRED: tl.constexpr, ALIGN: tl.constexpr, BLOCK_ROWS: tl.constexpr,
                   BLOCK_DIM: tl.constexpr):
    acc: tl.constexpr = accumulator(y)
    dim = multiple(dim, ALIGN)
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    col = tl.arange(0, BLOCK_DIM)
    live = (row < rows)[:, None] & (col < dim)[None, :]
    at = row[:, None] * dim + col[None, :]
    xs = take(total, x, residual, row[:, None] * multiple(x_row, ALIGN) + col[None, :],
              row[:, None] * multiple(residual_row, ALIGN) + col[None, :], at, live, acc)
    m = tl.zeros((BLOCK_ROWS,), acc)
    away = xs
    if CENTRED:
        m = tl.sum(xs, 1) / dim
        away = tl.where(live, xs - m[:, None], 0.0)
        if mean is not None:
            tl.store(mean + row, m, mask=row < rows)
    r = tl.rsqrt(tl.sum(away * away, 1) / dim + tl.full((), eps, acc))
    if rstd is not None:
        tl.store(rstd + row, r, mask=row < rows)
    ys = finish(xs, m[:, None], r[:, None], weight, bias, col[None, :], (col < dim)[None, :], offset, acc)
    tl.store(y + at, ys, mask=live)


@triton.jit
def forward_wide_kernel(y, total, mean, rstd, x, residual, weight, bias, x_row, residual_row, dim, eps: tl.float64,
                        offset: tl.float64, CENTRED: tl.constexpr, ALIGN: tl.constexpr, BLOCK_DIM: tl.constexpr):
    acc: tl.constexpr = accumulator(y)
    dim = multiple(dim, ALIGN)
    row = tl.program_id(0).to(tl.int64)
    x += row * multiple(x_row, ALIGN)
    y += row * dim
    if residual is not None:
        residual += row * multiple(residual_row, ALIGN)
        total += row * dim
    # Of each lane: how many it has seen, their mean and Σ (x − mean)².
    seen, means, squares = (tl.zeros((BLOCK_DIM,), acc), tl.zeros((BLOCK_DIM,), acc), tl.zeros((BLOCK_DIM,), acc))
    for start in range(0, dim, BLOCK_DIM):
        col = start + tl.arange(0, BLOCK_DIM)
        live = col < dim
        xs = take(total, x, residual, col, col, col, live, acc)
        if CENTRED:
            seen += tl.where(live, 1.0, 0.0).to(acc)
            away = tl.where(live, xs - means, 0.0)
            means += away / tl.maximum(seen, 1.0)
            squares += away * (xs - means)
        else:
            squares += xs * xs
    m = tl.sum(means * seen, 0) / dim
    r = tl.rsqrt(tl.sum(squares + seen * (means - m) * (means - m), 0) / dim + tl.full((), eps, acc))
    if mean is not None:
        tl.store(mean + row, m)
    if rstd is not None:
        tl.store(rstd + row, r)
    for start in range(0, dim, BLOCK_DIM):
        col = start + tl.arange(0, BLOCK_DIM)
        live = col < dim
        if residual is not None:
            # What this program has stored may come back to another of its threads: added again, not read again.
            xs = (load(x, col, live, acc) + load(residual, col, live, acc)).to(total.dtype.element_ty).to(acc)
        else:
            xs = load(x, col, live, acc)
        tl.store(y + col, finish(xs, m, r, weight, bias, col, live, offset, acc), mask=live)


def row_stride(matrix):
    return 0 if matrix is None else matrix.stride(0)


def forward(y, total, mean, rstd, x, residual, weight, bias, eps, offset, centred):
    (rows, dim), strides = x.shape, (x.stride(0), row_stride(residual))
    aligned = align(dim, *strides)
    blocks = tile(x, rows, dim, WIDEST_FORWARD, per_thread=32)
    given = (y, total, mean, rstd, x, residual, weight, bias, *strides)
    if dim <= blocks["BLOCK_DIM"]:
        launch(x, forward_kernel, ceil_div(rows, blocks["BLOCK_ROWS"]), *given, rows, dim, eps, offset, centred, aligned,
               **blocks)
    else:
        launch(x, forward_wide_kernel, rows, *given, dim, eps, offset, centred, aligned, BLOCK_DIM=TILE, num_warps=8)


@triton.jit
def mean_at(mean, row, live, CENTRED: tl.constexpr, acc: tl.constexpr):
    m = (row * 0).to(acc)
    if CENTRED:
        m = load(mean, row, live, acc)
    return m


@triton.jit
def store_gradient(dx, dresidual, dtotal, d, at, dtotal_at, live, acc: tl.constexpr):
    if dtotal is not None:
        d += load(dtotal, dtotal_at, live, acc)
    if dx is not None:
        tl.store(dx + at, d, mask=live)
    if dresidual is not None:
        tl.store(dresidual + at, d, mask=live)


@triton.jit
def store_sums(dweight, dbias, by_weight, by_bias, at, live):
    if dweight is not None:
        tl.store(dweight + at, tl.sum(by_weight, 0), mask=live)
    if dbias is not None:
        tl.store(dbias + at, tl.sum(by_bias, 0), mask=live)


@triton.jit
def backward_kernel(dx, dresidual, dweight, dbias, grad, dtotal, x, weight, mean, rstd, grad_row, dtotal_row, x_row, rows,
                    dim, share, offset: tl.float64, CENTRED: tl.constexpr, ALIGN: tl.constexpr, BLOCK_ROWS: tl.constexpr,
                    BLOCK_DIM: tl.constexpr):
    acc: tl.constexpr = accumulator(grad)
    dim = multiple(dim, ALIGN)
    part, first, last, col = share_at(tl.program_id(0), rows, dim, share, BLOCK_DIM)
    w = scale(weight, col[None, :], (col < dim)[None, :], offset, acc)
    by_weight = tl.zeros((BLOCK_ROWS, BLOCK_DIM), acc)
    by_bias = tl.zeros((BLOCK_ROWS, BLOCK_DIM), acc)
    for start in tl.range(first, last, BLOCK_ROWS, num_stages=2):
        row = start + tl.arange(0, BLOCK_ROWS)
        live = (row < last)[:, None] & (col < dim)[None, :]
        g = load(grad, row[:, None] * multiple(grad_row, ALIGN) + col[None, :], live, acc)
        r = load(rstd, row, row < last, acc)[:, None]
        m = mean_at(mean, row, row < last, CENTRED, acc)[:, None]
        n = (load(x, row[:, None] * multiple(x_row, ALIGN) + col[None, :], live, acc) - m) * r
        if dweight is not None:
            by_weight += g * n
        if dbias is not None:
            by_bias += g
        if dx is not None or dresidual is not None:
            d = g * w - n * (tl.sum(g * w * n, 1, keep_dims=True) / dim)
            if CENTRED:
                d -= tl.sum(g * w, 1, keep_dims=True) / dim
            store_gradient(dx, dresidual, dtotal, d * r, row[:, None] * dim + col[None, :],
                           row[:, None] * multiple(dtotal_row, ALIGN) + col[None, :], live, acc)
    store_sums(dweight, dbias, by_weight, by_bias, part * dim + col, col < dim)


@triton.jit
def backward_wide_kernel(dx, dresidual, grad, dtotal, x, weight, mean, rstd, grad_row, dtotal_row, x_row, dim,
                         offset: tl.float64, CENTRED: tl.constexpr, ALIGN: tl.constexpr, BLOCK_DIM: tl.constexpr):
    acc: tl.constexpr = accumulator(grad)
    dim = multiple(dim, ALIGN)
    row = tl.program_id(0).to(tl.int64)
    grad += row * multiple(grad_row, ALIGN)
    x += row * multiple(x_row, ALIGN)
    m = mean_at(mean, row, row >= 0, CENTRED, acc)
    products, sums = tl.zeros((BLOCK_DIM,), acc), tl.zeros((BLOCK_DIM,), acc)
    for start in range(0, dim, BLOCK_DIM):
        col = start + tl.arange(0, BLOCK_DIM)
        live = col < dim
        g = load(grad, col, live, acc) * scale(weight, col, live, offset, acc)
        products += g * (load(x, col, live, acc) - m)
        sums += g
    r = tl.load(rstd + row)
    slope = tl.sum(products, 0) / dim * r * r
    shift = tl.sum(sums, 0) / dim if CENTRED else tl.zeros((), acc)
    for start in range(0, dim, BLOCK_DIM):
        col = start + tl.arange(0, BLOCK_DIM)
        live = col < dim
        g = load(grad, col, live, acc) * scale(weight, col, live, offset, acc)
        d = r * (g - shift - (load(x, col, live, acc) - m) * slope)
        store_gradient(dx, dresidual, dtotal, d, row * dim + col, row * multiple(dtotal_row, ALIGN) + col, live, acc)


@triton.jit
def sums_wide_kernel(dweight, dbias, grad, x, mean, rstd, grad_row, x_row, rows, dim, share, CENTRED: tl.constexpr,
                     ALIGN: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_DIM: tl.constexpr):
    acc: tl.constexpr = accumulator(grad)
    dim = multiple(dim, ALIGN)
    part, first, last, col = share_at(tl.program_id(0), rows, dim, share, BLOCK_DIM)
    by_weight = tl.zeros((BLOCK_ROWS, BLOCK_DIM), acc)
    by_bias = tl.zeros((BLOCK_ROWS, BLOCK_DIM), acc)
    for start in tl.range(first, last, BLOCK_ROWS, num_stages=2):
        row = start + tl.arange(0, BLOCK_ROWS)
        live = (row < last)[:, None] & (col < dim)[None, :]
        g = load(grad, row[:, None] * multiple(grad_row, ALIGN) + col[None, :], live, acc)
        if dweight is not None:
            n = load(x, row[:, None] * multiple(x_row, ALIGN) + col[None, :], live, acc)
            m = mean_at(mean, row, row < last, CENTRED, acc)[:, None]
            by_weight += g * ((n - m) * load(rstd, row, row < last, acc)[:, None])
        if dbias is not None:
            by_bias += g
    store_sums(dweight, dbias, by_weight, by_bias, part * dim + col, col < dim)


def backward(dx, dresidual, dweight, dbias, partial, grad, dtotal, x, weight, mean, rstd, offset):
    (rows, dim), strides = x.shape, (grad.stride(0), row_stride(dtotal), x.stride(0))
    aligned, centred = align(dim, *strides), mean is not None
    sums = [one for one in (dweight, dbias) if one is not None]
    halves = partial.tensor_split(len(sums)) if sums else ()  # the parts of dweight, then those of dbias
    by_weight = halves[0] if dweight is not None else None
    by_bias = halves[-1] if dbias is not None else None
    parts, share, blocks = share_rows(x, halves[0] if sums else None, WIDEST_BACKWARD)
    if dim <= blocks["BLOCK_DIM"]:
        launch(x, backward_kernel, parts, dx, dresidual, by_weight, by_bias, grad, dtotal, x, weight, mean, rstd, *strides,
               rows, dim, share, offset, centred, aligned, **blocks)
    else:
        if dx is not None or dresidual is not None:
            launch(x, backward_wide_kernel, rows, dx, dresidual, grad, dtotal, x, weight, mean, rstd, *strides, dim, offset,
                   centred, aligned, BLOCK_DIM=TILE, num_warps=8)
        if sums:
            parts, share, blocks = share_rows(x, halves[0], TILE)
            launch(x, sums_wide_kernel, parts * ceil_div(dim, blocks["BLOCK_DIM"]), by_weight, by_bias, grad, x, mean, rstd,
                   grad.stride(0), x.stride(0), rows, dim, share, centred, aligned, **blocks)
    for one, half in zip(sums, halves):
        sum_parts(one, half)
