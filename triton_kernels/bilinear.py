"""A block z[row, a, c] between matrix products: z = left[row, a] · right[row, c], and the sums over either factor,
left_sum[row, a] = bias[a] + Σ_c z · right, right_sum[row, c] = before[row, c] + Σ_a z · left.

A tile is some a and some c of one row, of several where a row has few. Each sum walks along what it sums over and adds
tile to tile; z is written, or read, once for each.
"""
import triton
import triton.language as tl

from .device import accumulator, load, multiple
from .launch import TILE, align, ceil_div, launch, power_of_two


def pair_tile(rows, count, dim):
    """Enough a that a load of left is no less than what its warp can take."""
    block_dim = min(power_of_two(dim), 128)
    block_count = min(power_of_two(count), TILE // block_dim)
    block_rows = min(power_of_two(rows), TILE // (block_dim * block_count))
    num_warps = max(block_rows * block_count * block_dim // 1024, 1)
    return dict(BLOCK_ROWS=block_rows, BLOCK_COUNT=block_count, BLOCK_DIM=block_dim, num_warps=num_warps)


@triton.jit
def span(index, BLOCK: tl.constexpr):
    return index.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)


@triton.jit
def outer_kernel(z, left, right, z_row, left_row, right_row, rows, count, dim, ALIGN: tl.constexpr,
                 BLOCK_ROWS: tl.constexpr, BLOCK_COUNT: tl.constexpr, BLOCK_DIM: tl.constexpr):
    acc: tl.constexpr = accumulator(z)
    dim = multiple(dim, ALIGN)
    across, down = tl.cdiv(dim, BLOCK_DIM), tl.cdiv(count, BLOCK_COUNT)
    index = tl.program_id(0)
    col, a = span(index % across, BLOCK_DIM), span(index // across % down, BLOCK_COUNT)
    row = span(index // (across * down), BLOCK_ROWS)
    l = load(left, row[:, None] * left_row + a[None, :], (row < rows)[:, None] & (a < count)[None, :], acc)
    r = load(right, row[:, None] * multiple(right_row, ALIGN) + col[None, :],
             (row < rows)[:, None] & (col < dim)[None, :], acc)
    place = row[:, None, None] * multiple(z_row, ALIGN) + a[None, :, None] * dim + col[None, None, :]
    live = (row < rows)[:, None, None] & (a < count)[None, :, None] & (col < dim)[None, None, :]
    tl.store(z + place, l[:, :, None] * r[:, None, :], mask=live)


def bilinear_outer(z, left, right):
    (rows, dim), count = right.shape, left.shape[1]
    blocks = pair_tile(rows, count, dim)
    programs = ceil_div(rows, blocks["BLOCK_ROWS"]) * ceil_div(count, blocks["BLOCK_COUNT"])
    launch(z, outer_kernel, programs * ceil_div(dim, blocks["BLOCK_DIM"]), z, left, right, z.stride(0), left.stride(0),
           right.stride(0), rows, count, dim, align(dim, z.stride(0), right.stride(0)), **blocks)


@triton.jit
def left_sum_kernel(total, z, right, bias, total_row, z_row, right_row, rows, count, dim, ALIGN: tl.constexpr,
                    BLOCK_ROWS: tl.constexpr, BLOCK_COUNT: tl.constexpr, BLOCK_DIM: tl.constexpr):
    acc: tl.constexpr = accumulator(z)
    dim = multiple(dim, ALIGN)
    down = tl.cdiv(count, BLOCK_COUNT)
    row, a = span(tl.program_id(0) // down, BLOCK_ROWS), span(tl.program_id(0) % down, BLOCK_COUNT)
    wanted = (row < rows)[:, None] & (a < count)[None, :]
    place = row[:, None, None] * multiple(z_row, ALIGN) + a[None, :, None] * dim
    sums = tl.zeros((BLOCK_ROWS, BLOCK_COUNT, BLOCK_DIM), acc)
    for start in range(0, dim, BLOCK_DIM):
        col = start + tl.arange(0, BLOCK_DIM)
        r = load(right, row[:, None] * multiple(right_row, ALIGN) + col[None, :],
                 (row < rows)[:, None] & (col < dim)[None, :], acc)
        live = wanted[:, :, None] & (col < dim)[None, None, :]
        sums += load(z, place + col[None, None, :], live, acc) * r[:, None, :]
    result = tl.sum(sums, 2)
    if bias is not None:
        result += load(bias, a, a < count, acc)[None, :]
    tl.store(total + row[:, None] * total_row + a[None, :], result, mask=wanted)


def left_sum(total, z, right, bias):
    (rows, count), dim = total.shape, right.shape[1]
    blocks = pair_tile(rows, count, dim)
    programs = ceil_div(rows, blocks["BLOCK_ROWS"]) * ceil_div(count, blocks["BLOCK_COUNT"])
    launch(z, left_sum_kernel, programs, total, z, right, bias, total.stride(0), z.stride(0), right.stride(0), rows,
           count, dim, align(dim, z.stride(0), right.stride(0)), **blocks)


@triton.jit
def right_sum_kernel(total, before, z, left, total_row, before_row, z_row, left_row, rows, count, dim,
                     ALIGN: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COUNT: tl.constexpr,
                     BLOCK_DIM: tl.constexpr):
    acc: tl.constexpr = accumulator(z)
    dim = multiple(dim, ALIGN)
    across = tl.cdiv(dim, BLOCK_DIM)
    row, col = span(tl.program_id(0) // across, BLOCK_ROWS), span(tl.program_id(0) % across, BLOCK_DIM)
    wanted = (row < rows)[:, None] & (col < dim)[None, :]
    place = row[:, None, None] * multiple(z_row, ALIGN) + col[None, None, :]
    sums = tl.zeros((BLOCK_ROWS, BLOCK_COUNT, BLOCK_DIM), acc)
    for start in range(0, count, BLOCK_COUNT):
        a = start + tl.arange(0, BLOCK_COUNT)
        l = load(left, row[:, None] * left_row + a[None, :], (row < rows)[:, None] & (a < count)[None, :], acc)
        live = wanted[:, None, :] & (a < count)[None, :, None]
        sums += load(z, place + a.to(tl.int64)[None, :, None] * dim, live, acc) * l[:, :, None]
    result = tl.sum(sums, 1)
    if before is not None:
        result += load(before, row[:, None] * before_row + col[None, :], wanted, acc)
    tl.store(total + row[:, None] * total_row + col[None, :], result, mask=wanted)


def right_sum(total, before, z, left):
    (rows, dim), count = total.shape, left.shape[1]
    blocks = pair_tile(rows, count, dim)
    before_row = before.stride(0) if before is not None else 0
    programs = ceil_div(rows, blocks["BLOCK_ROWS"]) * ceil_div(dim, blocks["BLOCK_DIM"])
    launch(z, right_sum_kernel, programs, total, before, z, left, total.stride(0), before_row, z.stride(0),
           left.stride(0), rows, count, dim, align(dim, z.stride(0)), **blocks)


def bilinear_contract(left_total, right_total, before, z, left, right, bias):
    if left_total is not None:
        left_sum(left_total, z, right, bias)
    if right_total is not None:
        right_sum(right_total, before, z, left)
