"""loss = Σ_c q_c · w_c · (lse − z_c) + z_loss · lse² of each row of logits z, lse = ln Σ_c e^z_c, for a class or for
probabilities q; backward dx = grad · (softmax(z) · slope − q · w) · dz/dx, slope being what the loss grows by with lse.

Forward reads x, and soft where there are probabilities, once and writes four numbers a row. A program walks along its rows
in blocks of DEPTH pieces, one behind the other, with a running maximum for each column of a piece: what belongs to a
column is rescaled once a block, and needs no other thread before the row's end. What is summed beside the exponentials is
a distance from the maximum too, so that all terms have one sign. Backward reads x, and soft, and writes dx once, tile by
tile. Rows that do not count are not read.
"""
import triton
import triton.language as tl

from .activation import tanh
from .device import accumulator, load, multiple, tile_at
from .launch import TILE, align, ceil_div, launch, power_of_two, tile, tiles
from .norm import row_stride
from .softmax import INFINITY, logarithm

FEW_ROWS = 256  # fill a GPU only if each has many warps


@triton.constexpr_function
def lowest(acc):
    """The least finite number: where a maximum starts from, so that no distance is that of −inf from −inf."""
    return -1.7976931348623157e308 if acc == tl.float64 else -3.4028234663852886e38


@triton.jit
def class_of(target, row, there, dim, ignore_index, acc: tl.constexpr):
    """The class of each row, whether the row counts, and what is stored for it if it does not."""
    t, counts, otherwise = row * 0, there, (row * 0).to(acc)
    if target is not None:
        t = tl.load(target + row, mask=there, other=0)
        counts = there & (t != ignore_index) & (t >= 0) & (t < dim)
        otherwise = tl.where(t == ignore_index, otherwise, float("nan"))
    return t, counts, otherwise


@triton.jit
def logits(x, at, live, softcap, CAPPED: tl.constexpr, acc: tl.constexpr):
    """z, −inf where not live, and dz/dx."""
    z, slope = tl.load(x + at, mask=live, other=-INFINITY).to(acc), 1.0
    if CAPPED:
        cap = tl.full((), softcap, acc)
        ratio = tanh(z * (1 / cap))
        z, slope = tl.where(live, cap * ratio, -INFINITY), 1 - ratio * ratio
    return z, slope


@triton.jit
def unit_of(soft, each, acc: tl.constexpr):
    """What `shares` are multiples of: beside a class ε / dim, so that their sums are exact."""
    return tl.full((), each if soft is None else 1.0, acc)


@triton.jit
def shares(soft, weight, soft_at, col, live, keep, each, acc: tl.constexpr):
    """q · w of the columns, without what is the target class's own."""
    q = tl.full((), 1.0, acc)
    if soft is not None:
        q = load(soft, soft_at, live, acc) * tl.full((), keep, acc) + tl.full((), each, acc)
    if weight is not None:
        q *= load(weight, col, live, acc)
    return q


@triton.jit(do_not_specialize=["ignore_index"])
def forward_kernel(loss, top, scale, share, x, target, soft, weight, x_row, soft_row, rows, dim, ignore_index: tl.int64,
                   keep: tl.float64, each: tl.float64, z_loss: tl.float64, softcap: tl.float64, SPREAD: tl.constexpr,
                   CAPPED: tl.constexpr, ALIGN: tl.constexpr, DEPTH: tl.constexpr, BLOCK_ROWS: tl.constexpr,
                   BLOCK_DIM: tl.constexpr):
    acc: tl.constexpr = accumulator(x)
    PIECE: tl.constexpr = BLOCK_DIM // DEPTH
    dim = multiple(dim, ALIGN)
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    there = row < rows
    t, counts, otherwise = class_of(target, row, there, dim, ignore_index, acc)
    x_at, soft_at = row * multiple(x_row, ALIGN), (row * multiple(soft_row, ALIGN))[:, None, None]
    own = logits(x, x_at + t, counts, softcap, CAPPED, acc)[0]
    within = tl.arange(0, DEPTH)[None, :, None] * PIECE + tl.arange(0, PIECE)[None, None, :]
    # Of each column of a piece: its maximum, Σ e^(z − maximum), Σ shares and Σ shares · (z − maximum).
    tops, totals = tl.full((BLOCK_ROWS, PIECE), lowest(acc), acc), tl.zeros((BLOCK_ROWS, PIECE), acc)
    sums, products = tl.zeros((BLOCK_ROWS, PIECE), acc), tl.zeros((BLOCK_ROWS, PIECE), acc)
    for start in range(0, tl.max(tl.where(counts, dim, 0), 0), BLOCK_DIM):
        col = start + within
        live = counts[:, None, None] & (col < dim)
        z = logits(x, x_at[:, None, None] + col, live, softcap, CAPPED, acc)[0]
        larger = tl.maximum(tops, tl.max(z, 1))
        away = z - larger[:, None, :]
        e = tl.exp(away)
        totals = totals * tl.exp(tops - larger) + tl.sum(e, 1)
        if SPREAD:
            # e, which is 0 where not live, tells the compiler that these sums are laid out as that of e.
            q = tl.where(live, shares(soft, weight, soft_at + col, col, live, keep, each, acc), e)
            products += sums * tl.maximum(tops - larger, lowest(acc)) + tl.sum(tl.where(live, q * away, 0.0), 1)
            sums += tl.sum(q, 1)
        tops = larger
    highest = tl.max(tops, 1)
    away = tops - highest[:, None]
    total = tl.sum(totals * tl.exp(away), 1)
    log_total = logarithm(tl.where(total == 0, float("nan"), total))
    lse = highest + log_total
    value, slope, own_share = tl.zeros_like(lse), tl.zeros_like(lse), tl.zeros_like(lse) + 1
    if target is not None:
        if weight is not None:
            own_share = load(weight, t, counts, acc)
        slope = own_share * tl.full((), keep, acc)
        value = slope * (log_total + (highest - own))
    if SPREAD:
        unit = unit_of(soft, each, acc)
        of_all = tl.sum(sums, 1)
        value += unit * (of_all * log_total - tl.sum(products + sums * tl.maximum(away, lowest(acc)), 1))
        slope += unit * of_all
    factor = tl.full((), z_loss, acc)
    tl.store(loss + row, tl.where(counts, value + factor * lse * lse, otherwise), mask=there)
    tl.store(top + row, tl.where(counts, highest, otherwise), mask=there)
    tl.store(scale + row, tl.where(counts, (slope + 2 * factor * lse) / total, otherwise), mask=there)
    tl.store(share + row, tl.where(counts, own_share, otherwise), mask=there)


@triton.jit(do_not_specialize=["ignore_index"])
def backward_kernel(dx, grad, x, target, soft, weight, top, scale, share, grad_row, x_row, soft_row, rows, dim,
                    ignore_index: tl.int64, keep: tl.float64, each: tl.float64, softcap: tl.float64, SPREAD: tl.constexpr,
                    CAPPED: tl.constexpr, ALIGN: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_DIM: tl.constexpr):
    acc: tl.constexpr = accumulator(x)
    dim = multiple(dim, ALIGN)
    # The last rows first: forward read them last, and may have left them in the L2 cache.
    row, col = tile_at(tl.num_programs(0) - 1 - tl.program_id(0), dim, BLOCK_ROWS, BLOCK_DIM)
    there = row < rows
    t, counts, otherwise = class_of(target, row, there, dim, ignore_index, acc)
    # As vectors of rows: a matrix of one column would be loaded once for each number that a thread holds.
    factor, highest = load(grad, row * grad_row, there, acc)[:, None], load(top, row, there, acc)[:, None]
    slope, own_share = load(scale, row, there, acc)[:, None], load(share, row, there, acc)[:, None]
    row, col, live, of_row = row[:, None], col[None, :], counts[:, None] & (col < dim)[None, :], there[:, None]
    z, z_slope = logits(x, row * multiple(x_row, ALIGN) + col, live, softcap, CAPPED, acc)
    if SPREAD:
        q = unit_of(soft, each, acc) * shares(soft, weight, row * multiple(soft_row, ALIGN) + col, col, live, keep, each, acc)
    if target is not None:
        own = tl.where(col == t[:, None], own_share * tl.full((), keep, acc), 0.0)
        q = own + q if SPREAD else own
    d = (tl.exp(z - highest) * slope - q) * (factor * z_slope)
    tl.store(dx + row * dim + col, tl.where(counts[:, None], d, otherwise[:, None]), mask=of_row & (col < dim))


def walk(x, most):
    """Block sizes to walk along rows in blocks of `most` pieces, of which every warp has 8 numbers a thread, float64 half of it:
    all pieces of a column are in the registers of one thread. Several rows, with four warps, where none has more than a piece."""
    (rows, dim), words = x.shape, 2 if x.element_size() == 8 else 1
    piece, warps = 256 // words, 4 if rows > FEW_ROWS else 16 // words
    block_dim = min(power_of_two(dim), warps * most * piece)
    if block_dim <= piece:
        return dict(DEPTH=1, BLOCK_ROWS=4 * min(2 * piece // block_dim, 16), BLOCK_DIM=block_dim, num_warps=4)
    depth = min(block_dim // piece, most)
    return dict(DEPTH=depth, BLOCK_ROWS=1, BLOCK_DIM=block_dim, num_warps=block_dim // (depth * piece))


def cross_entropy_forward(loss, top, scale, share, x, target, soft, weight, ignore_index, smoothing, z_loss, softcap):
    (rows, dim), strides, spread = x.shape, (x.stride(0), row_stride(soft)), soft is not None or smoothing != 0
    blocks = walk(x, 2 if spread else 4)
    launch(x, forward_kernel, ceil_div(rows, blocks["BLOCK_ROWS"]), loss, top, scale, share, x, target, soft, weight, *strides,
           rows, dim, ignore_index, 1 - smoothing, smoothing / dim, z_loss, softcap, spread, softcap != 0,
           align(dim, *strides), **blocks)


def cross_entropy_backward(dx, grad, x, target, soft, weight, top, scale, share, ignore_index, smoothing, softcap):
    (rows, dim), strides = x.shape, (x.stride(0), row_stride(soft))
    blocks = tile(x, rows, dim, TILE)
    launch(x, backward_kernel, tiles(rows, dim, blocks), dx, grad, x, target, soft, weight, top, scale, share, grad.stride(0),
           *strides, rows, dim, ignore_index, 1 - smoothing, smoothing / dim, softcap, soft is not None or smoothing != 0,
           softcap != 0, align(dim, *strides), **blocks)
