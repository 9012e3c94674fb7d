"""y = weight · tanh(x) + bias, and dx = grad · weight · (1 − tanh²(x)), dweight = Σ_rows grad · tanh(x), dbias = Σ_rows grad.

Forward: one tile a program. Backward: a program walks down its share of the rows, writes dx and adds up its row of each partial
sum on the way; a second kernel adds these rows in order. Every matrix is read or written once.
"""

import triton
import triton.language as tl

from pylayers.triton_kernels.activation import tanh
from pylayers.triton_kernels.device import accumulator, load, multiple, tile_at
from pylayers.triton_kernels.launch import align, ceil_div, launch, tile, tiles
from pylayers.triton_kernels.parts import share_at, share_rows, sum_parts

WIDEST = 1024


@triton.jit
def forward_kernel(y, x, weight, bias, x_row, rows, dim, ALIGN: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_DIM: tl.constexpr):
    acc: tl.constexpr = accumulator(y)
    dim = multiple(dim, ALIGN)
    row, col = tile_at(tl.program_id(0), dim, BLOCK_ROWS, BLOCK_DIM)
    live = (row < rows)[:, None] & (col < dim)[None, :]
    row, col = row[:, None], col[None, :]
    w, b = load(weight, col, col < dim, acc), load(bias, col, col < dim, acc)
    t = tanh(load(x, row * multiple(x_row, ALIGN) + col, live, acc))
    tl.store(y + row * dim + col, w * t + b, mask=live)


def scaled_tanh_forward(y, x, weight, bias):
    (rows, dim), x_row = x.shape, x.stride(0)
    blocks = tile(x, rows, dim, WIDEST)
    launch(x, forward_kernel, tiles(rows, dim, blocks), y, x, weight, bias, x_row, rows, dim, align(dim, x_row), **blocks)


@triton.jit
def backward_kernel(dx, partial_weight, partial_bias, grad, x, weight, grad_row, x_row, rows, dim, share, ALIGN: tl.constexpr,
                    BLOCK_ROWS: tl.constexpr, BLOCK_DIM: tl.constexpr):  # fmt: skip
    acc: tl.constexpr = accumulator(grad)
    dim = multiple(dim, ALIGN)
    part, first, last, col = share_at(tl.program_id(0), rows, dim, share, BLOCK_DIM)
    w = load(weight, col[None, :], (col < dim)[None, :], acc)
    of_weight = tl.zeros((BLOCK_ROWS, BLOCK_DIM), acc)
    of_bias = tl.zeros((BLOCK_ROWS, BLOCK_DIM), acc)
    for start in tl.range(first, last, BLOCK_ROWS, num_stages=2):
        row = start + tl.arange(0, BLOCK_ROWS)
        live = (row < last)[:, None] & (col < dim)[None, :]
        g = load(grad, row[:, None] * multiple(grad_row, ALIGN) + col[None, :], live, acc)
        t = tanh(load(x, row[:, None] * multiple(x_row, ALIGN) + col[None, :], live, acc))
        of_weight += g * t
        of_bias += g
        if dx is not None:
            tl.store(dx + row[:, None] * dim + col[None, :], g * w * (1 - t * t), mask=live)
    if partial_weight is not None:
        tl.store(partial_weight + part * dim + col, tl.sum(of_weight, 0), mask=col < dim)
    if partial_bias is not None:
        tl.store(partial_bias + part * dim + col, tl.sum(of_bias, 0), mask=col < dim)


def scaled_tanh_backward(dx, dweight, dbias, partial_weight, partial_bias, grad, x, weight):
    (rows, dim), strides = x.shape, (grad.stride(0), x.stride(0))
    partial = partial_bias if partial_weight is None else partial_weight
    parts, share, blocks = share_rows(x, partial, WIDEST)
    launch(x, backward_kernel, parts * ceil_div(dim, blocks["BLOCK_DIM"]), dx, partial_weight, partial_bias, grad, x, weight,
           *strides, rows, dim, share, align(dim, *strides), **blocks)  # fmt: skip
    if dweight is not None:
        sum_parts(dweight, partial_weight)
    if dbias is not None:
        sum_parts(dbias, partial_bias)
