"""y = residual + (x · scale where the mask keeps x, else 0), and dx = grad · scale where the same mask, drawn again, keeps it.

Element by element, one tile a program; contiguous matrices are taken as one long row. Four elements share a counter, whose
four words are interleaved. Forward reads two matrices and writes one, backward reads one and writes one, and no mask.
"""
import triton
import triton.language as tl

from .device import accumulator, load, multiple, tile_at
from .launch import align, elementwise_tile, launch, tiles
from .philox import philox


@triton.jit
def kept(x, row, first, dim, seed, key, drop_below, scale, BLOCK_DIM: tl.constexpr):
    """x · scale, or 0, for the tile of a matrix that has column `first`, a multiple of 4, at its left."""
    if seed is not None:
        key = tl.load(seed)
    counter = (row[:, None] * dim + first) // 4 + tl.arange(0, BLOCK_DIM // 4)[None, :]
    a, b, c, d = philox(counter, tl.cast(key, tl.int64))
    word = tl.interleave(tl.interleave(a, c), tl.interleave(b, d))
    return tl.where((word >> 1).to(tl.int64) < drop_below, 0.0, x * tl.full((), scale, x.dtype))


@triton.jit(do_not_specialize=["key", "drop_below"])
def forward_kernel(y, x, residual, seed, x_row, residual_row, rows, dim, key: tl.int64, drop_below: tl.int64, scale: tl.float64,
                   ALIGN: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_DIM: tl.constexpr):
    acc: tl.constexpr = accumulator(y)
    dim = multiple(dim, ALIGN)
    row, col = tile_at(tl.program_id(0), dim, BLOCK_ROWS, BLOCK_DIM)
    first = (tl.program_id(0) % tl.cdiv(dim, BLOCK_DIM)).to(tl.int64) * BLOCK_DIM
    live = (row < rows)[:, None] & (col < dim)[None, :]
    offset = row[:, None] * multiple(x_row, ALIGN) + col[None, :]
    value = kept(load(x, offset, live, acc), row, first, dim, seed, key, drop_below, scale, BLOCK_DIM)
    value += load(residual, row[:, None] * multiple(residual_row, ALIGN) + col[None, :], live, acc)
    tl.store(y + row[:, None] * dim + col[None, :], value, mask=live)


@triton.jit(do_not_specialize=["key", "drop_below"])
def backward_kernel(dx, grad, seed, grad_row, rows, dim, key: tl.int64, drop_below: tl.int64, scale: tl.float64,
                    ALIGN: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_DIM: tl.constexpr):
    acc: tl.constexpr = accumulator(dx)
    dim = multiple(dim, ALIGN)
    row, col = tile_at(tl.program_id(0), dim, BLOCK_ROWS, BLOCK_DIM)
    first = (tl.program_id(0) % tl.cdiv(dim, BLOCK_DIM)).to(tl.int64) * BLOCK_DIM
    live = (row < rows)[:, None] & (col < dim)[None, :]
    value = load(grad, row[:, None] * multiple(grad_row, ALIGN) + col[None, :], live, acc)
    value = kept(value, row, first, dim, seed, key, drop_below, scale, BLOCK_DIM)
    tl.store(dx + row[:, None] * dim + col[None, :], value, mask=live)


def mask_of(key, p):
    return key, int(p * 2**31 + 0.5), 0.0 if p == 1 else 1 / (1 - p)


def tile_of(*matrices):
    """elementwise_tile with whole counters a row."""
    rows, dim, strides, blocks = elementwise_tile(*matrices)
    blocks["BLOCK_DIM"] = max(blocks["BLOCK_DIM"], 4)
    return rows, dim, strides, blocks


def dropout_add_forward(y, x, residual, seed, key, p):
    rows, dim, (_, *strides), blocks = tile_of(y, x, residual)
    launch(y, forward_kernel, tiles(rows, dim, blocks), y, x, residual, seed, *strides, rows, dim, *mask_of(key, p),
           align(dim, *strides), **blocks)


def dropout_add_backward(dx, grad, seed, key, p):
    rows, dim, (_, *strides), blocks = tile_of(dx, grad)
    launch(dx, backward_kernel, tiles(rows, dim, blocks), dx, grad, seed, *strides, rows, dim, *mask_of(key, p),
           align(dim, *strides), **blocks)
