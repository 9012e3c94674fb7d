"""Losses l = weight · f(x, t) of single numbers, their sum, and their gradients by input and target.

Element by element; contiguous matrices are taken as one long row. A loss of each number moves three numbers, a sum two and a few
more, gradients three or four and one more where each loss has a gradient of its own.
"""
import triton
import triton.language as tl

from .activation import polynomial
from .device import accumulator, load, multiple
from .launch import align, ceil_div, elementwise_tile, launch, tiles
from .parts import sum_parts

SQUARES = tl.constexpr(0)
LOGITS = tl.constexpr(1)
PROBABILITIES = tl.constexpr(2)
LOG_PROBABILITIES = tl.constexpr(3)

# 2 artanh(s) / s in s² for |s| ≤ ⅓, highest power first. Relative error 1e-10 and 1e-17.
RATIO_32 = tl.constexpr((0.244093992, 0.213942687, 0.286206233, 0.399986948, 0.666666793, 2.0))
RATIO_64 = tl.constexpr((
    0.1576863425842041, 0.04696111233505233, 0.09415395725147089, 0.09423884748067715, 0.1053571925717526,
    0.1176408968275763, 0.1333336163618919, 0.1538461448185038, 0.1818181820131256, 0.2222222222195005,
    0.2857142857143084, 0.3999999999999999, 0.6666666666666667, 2.0))


@triton.jit
def log_of_ratio(s):
    """ln((1 + s) / (1 − s))."""
    coefficients: tl.constexpr = RATIO_64 if s.dtype == tl.float64 else RATIO_32
    return s * polynomial(s * s, coefficients)


@triton.jit
def log(x):
    """ln x = k ln 2 + ln m with √½ ≤ m < √2, −∞ for 0, a nan below. Not tl.log, whose instruction is off by 2⁻²² near 1."""
    if x.dtype == tl.float64:
        return tl.log(x)
    else:
        small = x < 1.1754943508222875e-38
        scaled = tl.where(small, x * 8388608.0, x)
        bits = scaled.to(tl.int32, bitcast=True)
        k = (bits - 0x3F3504F3) >> 23
        m = (bits - (k << 23)).to(tl.float32, bitcast=True)
        twos = k.to(tl.float32) - tl.where(small, 23.0, 0.0)
        y = twos * 0.693359375 + (log_of_ratio((m - 1) / (m + 1)) - twos * 2.12194440e-4)
        ends = tl.where(x == 0, -float("inf"), tl.where(x > 0, x, float("nan")))
        return tl.where((x > 0) & (x < float("inf")), y, ends)


@triton.jit
def log_of_one_and(u):
    """ln(1 + u) for 0 ≤ u ≤ 1."""
    return log_of_ratio(u / (2 + u))


@triton.jit
def value(x, t, p, KIND: tl.constexpr):
    if KIND == SQUARES:
        return (x - t) * (x - t)
    elif KIND == LOGITS:  # without what cancels
        return tl.where(x < 0, -(p * t * x), (1 - t) * x) + (1 + (p - 1) * t) * log_of_one_and(tl.exp(-tl.abs(x)))
    elif KIND == PROBABILITIES:
        return tl.where(t == 0, 0.0, t * (log(t) - x))
    else:
        return tl.exp(t) * (t - x)


@triton.jit
def slope_by_input(x, t, p, KIND: tl.constexpr):
    if KIND == SQUARES:
        return 2 * (x - t)
    elif KIND == LOGITS:
        e = tl.exp(-tl.abs(x))
        near = 1 / (1 + e)  # σ(|x|)
        far = e * near
        return (1 - t) * tl.where(x < 0, far, near) - p * t * tl.where(x < 0, near, far)
    elif KIND == PROBABILITIES:
        return -t
    else:
        return -tl.exp(t)


@triton.jit
def slope_by_target(x, t, p, KIND: tl.constexpr):
    if KIND == SQUARES:
        return -2 * (x - t)
    elif KIND == LOGITS:
        return tl.where(x < 0, -p, -1.0) * x + (p - 1) * log_of_one_and(tl.exp(-tl.abs(x)))
    elif KIND == PROBABILITIES:
        return log(t) + 1 - x
    else:
        return tl.exp(t) * (t - x + 1)


@triton.jit
def held(index, x, target, weight, pos_weight, x_row, target_row, weight_row, pos_weight_row, rows, dim, ALIGN: tl.constexpr,
         BLOCK_ROWS: tl.constexpr, BLOCK_DIM: tl.constexpr):
    """Of tile `index`: rows, columns, what is live, x, t, p, and weights."""
    acc: tl.constexpr = accumulator(x)
    across = tl.cdiv(dim, BLOCK_DIM)
    row = (index // across).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    col = (index % across).to(tl.int64) * BLOCK_DIM + tl.arange(0, BLOCK_DIM)
    live = (row < rows)[:, None] & (col < dim)[None, :]
    xs = load(x, row[:, None] * multiple(x_row, ALIGN) + col[None, :], live, acc)
    ts = load(target, row[:, None] * multiple(target_row, ALIGN) + col[None, :], live, acc)
    ps = tl.full((BLOCK_ROWS, BLOCK_DIM), 1.0, acc)
    ws = tl.full((BLOCK_ROWS, BLOCK_DIM), 1.0, acc)
    if pos_weight is not None:
        ps = load(pos_weight, row[:, None] * multiple(pos_weight_row, ALIGN) + col[None, :], live, acc)
    if weight is not None:
        ws = load(weight, row[:, None] * multiple(weight_row, ALIGN) + col[None, :], live, acc)
    return row, col, live, xs, ts, ps, ws


@triton.jit
def each_kernel(loss, x, target, weight, pos_weight, x_row, target_row, weight_row, pos_weight_row, rows, dim, KIND: tl.constexpr,
                ALIGN: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_DIM: tl.constexpr):
    dim = multiple(dim, ALIGN)
    row, col, live, xs, ts, ps, ws = held(tl.program_id(0), x, target, weight, pos_weight, x_row, target_row, weight_row,
                                          pos_weight_row, rows, dim, ALIGN, BLOCK_ROWS, BLOCK_DIM)
    tl.store(loss + row[:, None] * dim + col[None, :], ws * value(xs, ts, ps, KIND), mask=live)


@triton.jit
def sums_kernel(partial, x, target, weight, pos_weight, x_row, target_row, weight_row, pos_weight_row, rows, dim, turns,
                KIND: tl.constexpr, ALIGN: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_DIM: tl.constexpr):
    """Every program takes every parts-th tile."""
    acc: tl.constexpr = accumulator(x)
    dim = multiple(dim, ALIGN)
    sums = tl.zeros((BLOCK_ROWS, BLOCK_DIM), acc)
    for turn in range(tl.program_id(0), turns, tl.num_programs(0)):
        row, col, live, xs, ts, ps, ws = held(turn, x, target, weight, pos_weight, x_row, target_row, weight_row, pos_weight_row,
                                              rows, dim, ALIGN, BLOCK_ROWS, BLOCK_DIM)
        sums += tl.where(live, ws * value(xs, ts, ps, KIND), 0.0)
    tl.store(partial + tl.program_id(0), tl.sum(tl.sum(sums, 1), 0))


@triton.jit
def gradients_kernel(dx, dtarget, grad, x, target, weight, pos_weight, grad_row, x_row, target_row, weight_row, pos_weight_row, rows,
                     dim, size: tl.float64, OF_ALL: tl.constexpr, KIND: tl.constexpr, ALIGN: tl.constexpr, BLOCK_ROWS: tl.constexpr,
                     BLOCK_DIM: tl.constexpr):
    acc: tl.constexpr = accumulator(x)
    dim = multiple(dim, ALIGN)
    row, col, live, xs, ts, ps, ws = held(tl.program_id(0), x, target, weight, pos_weight, x_row, target_row, weight_row,
                                          pos_weight_row, rows, dim, ALIGN, BLOCK_ROWS, BLOCK_DIM)
    if OF_ALL:
        g = tl.load(grad).to(acc)
    else:
        g = load(grad, row[:, None] * multiple(grad_row, ALIGN) + col[None, :], live, acc)
    g = g / tl.full((), size, acc) * ws
    to = row[:, None] * dim + col[None, :]
    if dx is not None:
        tl.store(dx + to, g * slope_by_input(xs, ts, ps, KIND), mask=live)
    if dtarget is not None:
        tl.store(dtarget + to, g * slope_by_target(xs, ts, ps, KIND), mask=live)


def cut(matrices, weights):
    """elementwise_tile of matrices of which some are not there, and the strides of weights, 0 where they are not there."""
    rows, dim, strides, blocks = elementwise_tile(*(one for one in (*matrices, *weights) if one is not None))
    flat = iter(strides)
    return rows, dim, [0 if one is None else next(flat) for one in (*matrices, *weights)], blocks


def pointwise_loss_forward(loss, partial, x, target, weight, pos_weight, kind, size):
    rows, dim, strides, blocks = cut((x, target) if partial is not None else (x, target, loss), (weight, pos_weight))
    if partial is None:
        del strides[2]
        launch(x, each_kernel, tiles(rows, dim, blocks), loss, x, target, weight, pos_weight, *strides, rows, dim, kind,
               align(dim, *strides), **blocks)
        return
    launch(x, sums_kernel, partial.shape[0], partial, x, target, weight, pos_weight, *strides, rows, dim, tiles(rows, dim, blocks), kind,
           align(dim, *strides), **blocks)
    sum_parts(loss, partial, size=size)


def pointwise_loss_backward(dx, dtarget, grad, x, target, weight, pos_weight, kind, size):
    of_all = grad.dim() == 1
    rows, dim, strides, blocks = cut((None if of_all else grad, x, target, dx, dtarget), (weight, pos_weight))
    strides = [*strides[:3], *strides[5:]]
    launch(x, gradients_kernel, tiles(rows, dim, blocks), dx, dtarget, grad, x, target, weight, pos_weight, *strides, rows, dim,
           float(size), of_all, kind, align(dim, *strides), **blocks)
