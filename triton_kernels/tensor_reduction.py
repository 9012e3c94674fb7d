"""Rows first ≤ i < last of the packed upper triangle of x ⊗ x, one behind the other: z[row, p(i, j) − p(first, first)] =
x_i · x_j for j ≥ i. And from the gradient z of such a block dx_i = before_i + Σ_{j ≥ i} z_ij · x_j + Σ_{j ≤ i} z_ji · x_j.

A tile is some i and some j of one row, of several where a row has few. For dx one kernel walks down i, a second along j:
z is written once and read twice. A row of the triangle begins anywhere, so its accesses are narrow.
"""
import triton
import triton.language as tl

from .bilinear import pair_tile, span
from .device import accumulator, load
from .launch import ceil_div, launch


@triton.jit
def place_of(i, j, first, dim):
    """Of x_i · x_j in z; i is a column of indices and j a row."""
    return ((i - first) * dim - (i * (i - 1) - first * (first - 1)) // 2 - i)[None, :, None] + j[None, None, :]


@triton.jit
def load_x(x, x_row, row, rows, col, end, acc: tl.constexpr):
    return load(x, row[:, None] * x_row + col[None, :], (row < rows)[:, None] & (col < end)[None, :], acc)


@triton.jit
def is_live(row, rows, i, last, j, dim):
    return (row < rows)[:, None, None] & ((i < last)[:, None] & (j < dim)[None, :] & (j[None, :] >= i[:, None]))[None]


@triton.jit
def outer_kernel(z, x, z_row, x_row, rows, dim, first: tl.int64, last, BLOCK_ROWS: tl.constexpr,
                 BLOCK_COUNT: tl.constexpr, BLOCK_DIM: tl.constexpr):
    acc: tl.constexpr = accumulator(z)
    across, down = tl.cdiv(dim, BLOCK_DIM), tl.cdiv(last - first, BLOCK_COUNT).to(tl.int32)
    index = tl.program_id(0)
    j, i = span(index % across, BLOCK_DIM), first + span(index // across % down, BLOCK_COUNT)
    row = span(index // (across * down), BLOCK_ROWS)
    values = load_x(x, x_row, row, rows, i, last, acc)[:, :, None] * load_x(x, x_row, row, rows, j, dim, acc)[:, None, :]
    tl.store(z + row[:, None, None] * z_row + place_of(i, j, first, dim), values,
             mask=is_live(row, rows, i, last, j, dim))


def tensor_reduction_outer(z, x, first, last):
    rows, dim = x.shape
    blocks = pair_tile(rows, last - first, dim)
    programs = ceil_div(rows, blocks["BLOCK_ROWS"]) * ceil_div(last - first, blocks["BLOCK_COUNT"])
    launch(z, outer_kernel, programs * ceil_div(dim, blocks["BLOCK_DIM"]), z, x, z.stride(0), x.stride(0), rows, dim,
           first, last, **blocks)


@triton.jit
def columns_kernel(dx, before, z, x, dx_row, before_row, z_row, x_row, rows, dim, first: tl.int64, last,
                   BLOCK_ROWS: tl.constexpr, BLOCK_COUNT: tl.constexpr, BLOCK_DIM: tl.constexpr):
    """dx_j = before_j + Σ_{i ≤ j} z_ij · x_i"""
    acc: tl.constexpr = accumulator(z)
    across = tl.cdiv(dim, BLOCK_DIM)
    row, j = span(tl.program_id(0) // across, BLOCK_ROWS), span(tl.program_id(0) % across, BLOCK_DIM)
    sums = tl.zeros((BLOCK_ROWS, BLOCK_COUNT, BLOCK_DIM), acc)
    for start in range(first, last, BLOCK_COUNT):
        i = start + tl.arange(0, BLOCK_COUNT)
        values = load(z, row[:, None, None] * z_row + place_of(i, j, first, dim), is_live(row, rows, i, last, j, dim), acc)
        sums += values * load_x(x, x_row, row, rows, i, last, acc)[:, :, None]
    result = tl.sum(sums, 1)
    live = (row < rows)[:, None] & (j < dim)[None, :]
    if before is not None:
        result += load(before, row[:, None] * before_row + j[None, :], live, acc)
    tl.store(dx + row[:, None] * dx_row + j[None, :], result, mask=live)


@triton.jit
def rows_kernel(dx, z, x, dx_row, z_row, x_row, rows, dim, first: tl.int64, last, BLOCK_ROWS: tl.constexpr,
                BLOCK_COUNT: tl.constexpr, BLOCK_DIM: tl.constexpr):
    """dx_i += Σ_{j ≥ i} z_ij · x_j"""
    acc: tl.constexpr = accumulator(z)
    down = tl.cdiv(last - first, BLOCK_COUNT).to(tl.int32)
    row, i = span(tl.program_id(0) // down, BLOCK_ROWS), first + span(tl.program_id(0) % down, BLOCK_COUNT)
    sums = tl.zeros((BLOCK_ROWS, BLOCK_COUNT, BLOCK_DIM), acc)
    for start in range(0, dim, BLOCK_DIM):
        j = start + tl.arange(0, BLOCK_DIM)
        values = load(z, row[:, None, None] * z_row + place_of(i, j, first, dim), is_live(row, rows, i, last, j, dim), acc)
        sums += values * load_x(x, x_row, row, rows, j, dim, acc)[:, None, :]
    place = row[:, None] * dx_row + i[None, :]
    live = (row < rows)[:, None] & (i < last)[None, :]
    tl.store(dx + place, load(dx, place, live, acc) + tl.sum(sums, 2), mask=live)


def tensor_reduction_contract(dx, before, z, x, first, last):
    rows, dim = x.shape
    blocks = pair_tile(rows, last - first, dim)
    tiles = ceil_div(rows, blocks["BLOCK_ROWS"])
    before_row = before.stride(0) if before is not None else 0
    launch(z, columns_kernel, tiles * ceil_div(dim, blocks["BLOCK_DIM"]), dx, before, z, x, dx.stride(0), before_row,
           z.stride(0), x.stride(0), rows, dim, first, last, **blocks)
    launch(z, rows_kernel, tiles * ceil_div(last - first, blocks["BLOCK_COUNT"]), dx, z, x, dx.stride(0), z.stride(0),
           x.stride(0), rows, dim, first, last, **blocks)
