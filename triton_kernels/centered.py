"""y = (x − mean) · weight + bias, the mean along each row or over `count` neighbouring rows, column by column.

dx = grad · weight − mean(grad · weight), dweight = Σ grad · (x − mean), dbias = Σ grad.

Where no workspace for it is given, a program holds what a mean is over: whole rows, or some columns of `count` rows. x is
then read once and y written once; backward of columns reads grad and x and writes dx, and adds up its row of partial.
Otherwise programs add up shares, the shares are added in order, and x is read again, mostly out of the L2 cache. Where
the means are along rows, dweight and dbias are a kernel of their own, which reads grad and x once more.
"""
import triton
import triton.language as tl

from .device import accumulator, load, multiple
from .launch import TILE, align, ceil_div, launch, power_of_two, tile
from .parts import share_at, share_rows, sum_parts

HELD = 131072  # bytes of a program that holds columns; backward, which needs registers for more, holds a quarter


@triton.jit
def affine(x, weight, bias, feature, live, acc: tl.constexpr):
    """x · weight + bias. What is left out does nothing."""
    if weight is not None:
        x = x * load(weight, feature, live, acc)
    if bias is not None:
        x = x + load(bias, feature, live, acc)
    return x


@triton.jit
def rows_kernel(y, mean, x, weight, bias, x_row, rows, dim, WEIGHT_FIRST: tl.constexpr, ALIGN: tl.constexpr,
                BLOCK_ROWS: tl.constexpr, BLOCK_DIM: tl.constexpr):
    acc: tl.constexpr = accumulator(y)
    dim = multiple(dim, ALIGN)
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    col = tl.arange(0, BLOCK_DIM)
    live = (row < rows)[:, None] & (col < dim)[None, :]
    xs = load(x, row[:, None] * multiple(x_row, ALIGN) + col[None, :], live, acc)
    if WEIGHT_FIRST:
        xs = affine(xs, weight, None, col[None, :], (col < dim)[None, :], acc)
    m = tl.sum(xs, 1) / dim
    if mean is not None:
        tl.store(mean + row, m, mask=row < rows)
    ys = xs - m[:, None]
    if not WEIGHT_FIRST:
        ys = affine(ys, weight, bias, col[None, :], (col < dim)[None, :], acc)
    tl.store(y + row[:, None] * dim + col[None, :], ys, mask=live)


@triton.jit
def row_sums_kernel(partial, x, weight, x_row, dim, parts, share, ALIGN: tl.constexpr, BLOCK_DIM: tl.constexpr):
    acc: tl.constexpr = accumulator(x)
    row, part = (tl.program_id(0) // parts).to(tl.int64), (tl.program_id(0) % parts).to(tl.int64)
    x += row * multiple(x_row, ALIGN)
    first, last = part * share, tl.minimum((part + 1) * share, dim)
    sums = tl.zeros((BLOCK_DIM,), acc)
    for start in range(first, last, BLOCK_DIM):
        col = start + tl.arange(0, BLOCK_DIM)
        sums += affine(load(x, col, col < last, acc), weight, None, col, col < last, acc)
    tl.store(partial + tl.program_id(0), tl.sum(sums, 0))


@triton.jit
def subtract_kernel(y, mean, x, weight, bias, x_row, dim, count, features, share, ALONG: tl.constexpr,
                    WEIGHT_FIRST: tl.constexpr, ALIGN: tl.constexpr, BLOCK_ROWS: tl.constexpr,
                    BLOCK_DIM: tl.constexpr):
    """With the means known. Programs are counted along dim, then along the shares of the rows of a mean."""
    acc: tl.constexpr = accumulator(y)
    dim = multiple(dim, ALIGN)
    across, shares = tl.cdiv(dim, BLOCK_DIM), tl.cdiv(count, share)
    group = (tl.program_id(0) // across // shares).to(tl.int64)
    first = (tl.program_id(0) // across % shares).to(tl.int64) * share
    col = (tl.program_id(0) % across).to(tl.int64) * BLOCK_DIM + tl.arange(0, BLOCK_DIM)
    within = (col < dim)[None, :]
    if ALONG:
        m = tl.load(mean + group)
    else:
        m = load(mean, group * dim + col[None, :], within, acc)
    for start in range(first, tl.minimum(first + share, count), BLOCK_ROWS):
        row = start + tl.arange(0, BLOCK_ROWS)
        live = (row < tl.minimum(first + share, count))[:, None] & within
        row += group * count
        xs = load(x, row[:, None] * multiple(x_row, ALIGN) + col[None, :], live, acc)
        if WEIGHT_FIRST:
            ys = affine(xs, weight, None, col[None, :] % features, within, acc) - m
        else:
            ys = affine(xs - m, weight, bias, col[None, :] % features, within, acc)
        tl.store(y + row[:, None] * dim + col[None, :], ys, mask=live)


def along_rows(y, mean, partial, x, weight, bias, weight_first):
    (rows, dim), x_row = x.shape, x.stride(0)
    aligned = align(dim, x_row)
    if partial is None:
        blocks = tile(x, rows, dim, widest=2 * power_of_two(dim), per_thread=32)
        launch(x, rows_kernel, ceil_div(rows, blocks["BLOCK_ROWS"]), y, mean, x, weight, bias, x_row, rows, dim,
               weight_first, aligned, **blocks)
        return
    parts = partial.shape[1]
    launch(x, row_sums_kernel, rows * parts, partial, x, weight if weight_first else None, x_row, dim, parts,
           ceil_div(dim // aligned, parts) * aligned, aligned, BLOCK_DIM=TILE, num_warps=8)
    sum_parts(mean, partial.view(rows, parts, 1), rows, dim)
    subtract(y, mean, x, weight, bias, 1, True, weight_first)


def subtract(y, mean, x, weight, bias, count, along, weight_first=False):
    (rows, dim), x_row = x.shape, x.stride(0)
    blocks = tile(x, count, dim, widest=TILE if along else 256)
    share = 4 * blocks["BLOCK_ROWS"]
    programs = rows // count * ceil_div(count, share) * ceil_div(dim, blocks["BLOCK_DIM"])
    features = dim if weight is None and bias is None else (bias if weight is None else weight).shape[0]
    launch(x, subtract_kernel, programs, y, mean, x, weight, bias, x_row, dim, count, features, share, along,
           weight_first, align(dim, x_row), **blocks)


@triton.jit
def columns_kernel(y, mean, x, weight, bias, x_row, dim, count, features, ALIGN: tl.constexpr,
                   BLOCK_ROWS: tl.constexpr, BLOCK_DIM: tl.constexpr):
    acc: tl.constexpr = accumulator(y)
    dim = multiple(dim, ALIGN)
    across = tl.cdiv(dim, BLOCK_DIM)
    group = (tl.program_id(0) // across).to(tl.int64)
    col = (tl.program_id(0) % across).to(tl.int64) * BLOCK_DIM + tl.arange(0, BLOCK_DIM)
    row = tl.arange(0, BLOCK_ROWS)
    live = (row < count)[:, None] & (col < dim)[None, :]
    row = group * count + row
    xs = load(x, row[:, None] * multiple(x_row, ALIGN) + col[None, :], live, acc)
    m = tl.sum(xs, 0) / count
    if mean is not None:
        tl.store(mean + group * dim + col, m, mask=col < dim)
    ys = affine(xs - m[None, :], weight, bias, col[None, :] % features, (col < dim)[None, :], acc)
    tl.store(y + row[:, None] * dim + col[None, :], ys, mask=live)


def held_columns(like, dim, count, held):
    """A warp takes whole rows of a tile: more of them read what belongs to a column more often."""
    words = 2 if like.element_size() == 8 else 1
    block_rows = power_of_two(count)
    block_dim = min(power_of_two(dim), max(held // block_rows, 1), 512 // like.element_size())
    return dict(BLOCK_ROWS=block_rows, BLOCK_DIM=block_dim,
                num_warps=min(max(block_rows * block_dim * words // 2048, 1), 32))


def centered_forward(y, mean, partial, x, weight, bias, count):
    if count == 0:
        along_rows(y, mean, partial, x, weight, bias, False)
        return
    (rows, dim), x_row = x.shape, x.stride(0)
    groups = rows // count
    if partial is not None:
        sum_columns(partial.view(1, *partial.shape), x, None, None, count)
        sum_parts(mean, partial, groups, count)
        subtract(y, mean, x, weight, bias, count, False)
        return
    blocks = held_columns(x, dim, count, HELD // max(x.element_size(), 4))
    features = dim if weight is None and bias is None else (bias if weight is None else weight).shape[0]
    launch(x, columns_kernel, groups * ceil_div(dim, blocks["BLOCK_DIM"]), y, mean, x, weight, bias, x_row, dim,
           count, features, align(dim, x_row), **blocks)


@triton.jit
def column_sums_kernel(partial, grad, x, mean, grad_row, x_row, count, parts, shares, dim, BY_ROW: tl.constexpr,
                       ALIGN: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_DIM: tl.constexpr):
    """Σ grad and, with x, Σ grad · (x − mean) over each of the `parts` shares of every `count` rows."""
    acc: tl.constexpr = accumulator(grad)
    dim = multiple(dim, ALIGN)
    share, _, _, col = share_at(tl.program_id(0), count, dim, 1, BLOCK_DIM)
    group = share // parts
    first, last = group * count + count * (share % parts) // parts, group * count + count * (share % parts + 1) // parts
    sums = tl.zeros((BLOCK_ROWS, BLOCK_DIM), acc)
    products = tl.zeros((BLOCK_ROWS, BLOCK_DIM), acc)
    if x is not None and not BY_ROW:
        m = load(mean, group * dim + col[None, :], (col < dim)[None, :], acc)
    for start in tl.range(first, last, BLOCK_ROWS, num_stages=2):
        row = start + tl.arange(0, BLOCK_ROWS)
        live = (row < last)[:, None] & (col < dim)[None, :]
        g = load(grad, row[:, None] * multiple(grad_row, ALIGN) + col[None, :], live, acc)
        sums += g
        if x is not None:
            if BY_ROW:
                m = load(mean, row, row < last, acc)[:, None]
            products += g * (load(x, row[:, None] * multiple(x_row, ALIGN) + col[None, :], live, acc) - m)
    tl.store(partial + share * dim + col, tl.sum(sums, 0), mask=col < dim)
    if x is not None:
        tl.store(partial + (shares + share) * dim + col, tl.sum(products, 0), mask=col < dim)


def sum_columns(partial, grad, x, mean, count):
    (rows, dim), by_row = grad.shape, count == 0
    count = count or rows
    shares = partial.shape[1]
    parts = shares // (rows // count)
    blocks = tile(grad, ceil_div(count, parts), dim, widest=512)
    x_row = 0 if x is None else x.stride(0)
    launch(grad, column_sums_kernel, shares * ceil_div(dim, blocks["BLOCK_DIM"]), partial, grad, x, mean, grad.stride(0),
           x_row, count, parts, shares, dim, by_row, align(dim, grad.stride(0), x_row), **blocks)


@triton.jit
def columns_backward_kernel(dx, partial, grad, x, weight, mean, grad_row, x_row, dim, count, groups, features, shares,
                            ALIGN: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_DIM: tl.constexpr):
    acc: tl.constexpr = accumulator(grad)
    dim = multiple(dim, ALIGN)
    across = tl.cdiv(dim, BLOCK_DIM)
    share = (tl.program_id(0) // across).to(tl.int64)
    col = (tl.program_id(0) % across).to(tl.int64) * BLOCK_DIM + tl.arange(0, BLOCK_DIM)
    row = tl.arange(0, BLOCK_ROWS)
    live = (row < count)[:, None] & (col < dim)[None, :]
    sums = tl.zeros((BLOCK_DIM,), acc)
    products = tl.zeros((BLOCK_DIM,), acc)
    for group in range(groups * share // shares, groups * (share + 1) // shares):
        at = (group * count + row)[:, None]
        g = load(grad, at * multiple(grad_row, ALIGN) + col[None, :], live, acc)
        total = tl.sum(g, 0)
        sums += total
        if x is not None:
            m = load(mean, group * dim + col, col < dim, acc)[None, :]
            products += tl.sum(g * (load(x, at * multiple(x_row, ALIGN) + col[None, :], live, acc) - m), 0)
        if dx is not None:
            ys = affine(g - (total / count)[None, :], weight, None, col[None, :] % features, (col < dim)[None, :], acc)
            tl.store(dx + at * dim + col[None, :], ys, mask=live)
    if partial is not None:
        tl.store(partial + share * dim + col, sums, mask=col < dim)
    if x is not None:
        tl.store(partial + (shares + share) * dim + col, products, mask=col < dim)


def backward_over(dx, partial, grad_mean, grad, x, weight, mean, count):
    rows, dim = grad.shape
    groups = rows // count
    if partial is not None and partial.shape[1] > groups:
        sum_columns(partial, grad, x, mean, count)
        if dx is not None:
            sum_parts(grad_mean, partial[0], groups, count)
            subtract(dx, grad_mean, grad, weight, None, count, False)
        return
    shares = groups if partial is None else partial.shape[1]
    blocks = held_columns(grad, dim, count, HELD // 4 // grad.element_size())
    x_row = 0 if x is None else x.stride(0)
    launch(grad, columns_backward_kernel, shares * ceil_div(dim, blocks["BLOCK_DIM"]), dx, partial, grad, x, weight, mean,
           grad.stride(0), x_row, dim, count, groups, dim if weight is None else weight.shape[0], shares,
           align(dim, grad.stride(0), x_row), **blocks)


def centered_backward(dx, dweight, dbias, partial, grad_mean, row_partial, grad, x, weight, mean, count):
    if count == 0:
        if dx is not None:
            along_rows(dx, grad_mean, row_partial, grad, weight, None, weight is not None)
        if partial is not None:
            sum_columns(partial, grad, x, mean, 0)
    else:
        backward_over(dx, partial, grad_mean, grad, x, weight, mean, count)
    for kind, total in enumerate((dbias, dweight)):
        if total is not None:
            sum_parts(total, partial[kind].view(-1, total.shape[0]))
