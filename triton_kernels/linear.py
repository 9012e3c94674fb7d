"""y = activation(scale · (product + bias)), product = x · weightᵀ.

linear_forward computes a tile of product a program, and walks along inner with tl.dot. Programs are counted in bands of
BAND tiles down, so that those that run together share tiles of both operands in the L2 cache. Operands may be strided
along both dimensions, so the same kernel serves grad · weight and gradᵀ · x.

The epilogues serve products made elsewhere. They go element by element, read each matrix once and write one. In
backward a program walks down its share of the rows for a few columns and adds up its piece of partial on the way.
"""
import triton
import triton.language as tl

from .activation import NONE, activate, activate_backward, derivative_from_output
from .device import accumulator, load, multiple, tile_at
from .launch import align, ceil_div, elementwise_tile, launch, power_of_two, tile, tiles
from .parts import share_at, share_rows, sum_parts

BAND = tl.constexpr(8)

# Triton's interpreter multiplies the raw bits of bfloat16 if left to itself.
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def product_kernel(y, product, x, weight, bias, x_row, x_inner, weight_row, weight_inner, rows, dim, inner,
                   scale: tl.float64, ACTIVATION: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_DIM: tl.constexpr,
                   BLOCK_INNER: tl.constexpr):
    acc: tl.constexpr = accumulator(y)
    down, across = tl.cdiv(rows, BLOCK_ROWS), tl.cdiv(dim, BLOCK_DIM)
    i, j = tl.swizzle2d(tl.program_id(0) // across, tl.program_id(0) % across, down, across, BAND)
    row = i.to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    col = j.to(tl.int64) * BLOCK_DIM + tl.arange(0, BLOCK_DIM)
    step = tl.arange(0, BLOCK_INNER).to(tl.int64)
    x += row[:, None] * x_row + step[None, :] * x_inner
    weight += step[:, None] * weight_inner + col[None, :] * weight_row
    sums = tl.zeros((BLOCK_ROWS, BLOCK_DIM), acc)
    for start in range(0, inner, BLOCK_INNER):
        live = step < inner - start
        a = tl.load(x, mask=(row < rows)[:, None] & live[None, :], other=0.0)
        b = tl.load(weight, mask=live[:, None] & (col < dim)[None, :], other=0.0)
        if INTERPRETED:
            a, b = a.to(acc), b.to(acc)
        sums = tl.dot(a, b, sums, input_precision="ieee", out_dtype=acc)
        x += tl.cast(x_inner, tl.int64) * BLOCK_INNER
        weight += tl.cast(weight_inner, tl.int64) * BLOCK_INNER
    offset = row[:, None] * dim + col[None, :]
    live = (row < rows)[:, None] & (col < dim)[None, :]
    if product is not None:
        tl.store(product + offset, sums, mask=live)
    if bias is not None:
        sums += load(bias, col, col < dim, acc)[None, :]
    tl.store(y + offset, activate(sums * tl.full((), scale, acc), ACTIVATION), mask=live)


def product_tile(like, rows, dim, inner):
    """128 × 128, or as much of it as there is; smaller where that would leave most of a GPU idle. Without 16-bit tensor
    cores inner is walked in short steps, or operands would not fit registers."""
    size = like.element_size()
    block_rows, block_dim = (min(max(power_of_two(n), 16), 64 if size == 8 else 128) for n in (rows, dim))
    while max(block_rows, block_dim) > 32 and ceil_div(rows, block_rows) * ceil_div(dim, block_dim) < 64:
        if block_dim >= block_rows:
            block_dim //= 2
        else:
            block_rows //= 2
    block_inner = min(max(power_of_two(inner), 16), 64 if size == 2 else 16)
    return dict(BLOCK_ROWS=block_rows, BLOCK_DIM=block_dim, BLOCK_INNER=block_inner,
                num_warps=8 if block_rows * block_dim > 4096 else 4, num_stages=3)


def linear_forward(y, product, x, weight, bias, scale, activation):
    (rows, inner), dim = x.shape, weight.shape[0]
    blocks = product_tile(x, rows, dim, inner)
    launch(x, product_kernel, tiles(rows, dim, blocks), y, product, x, weight, bias, *x.stride(), *weight.stride(),
           rows, dim, inner, scale, activation, **blocks)


@triton.jit
def epilogue_forward_kernel(y, product, bias, y_row, product_row, rows, dim, scale: tl.float64,
                            ACTIVATION: tl.constexpr, ALIGN: tl.constexpr, BLOCK_ROWS: tl.constexpr,
                            BLOCK_DIM: tl.constexpr):
    acc: tl.constexpr = accumulator(y)
    dim = multiple(dim, ALIGN)
    row, col = tile_at(tl.program_id(0), dim, BLOCK_ROWS, BLOCK_DIM)
    live = (row < rows)[:, None] & (col < dim)[None, :]
    z = load(product, row[:, None] * multiple(product_row, ALIGN) + col[None, :], live, acc)
    if bias is not None:
        z += load(bias, col, col < dim, acc)[None, :]
    z *= tl.full((), scale, acc)
    tl.store(y + row[:, None] * multiple(y_row, ALIGN) + col[None, :], activate(z, ACTIVATION), mask=live)


def linear_epilogue_forward(y, product, bias, scale, activation):
    rows, dim, strides, blocks = elementwise_tile(y, product)
    if bias is not None:
        (rows, dim), strides = y.shape, (y.stride(0), product.stride(0))
        blocks = tile(y, rows, dim, widest=1024, per_thread=8)
    launch(y, epilogue_forward_kernel, tiles(rows, dim, blocks), y, product, bias, *strides, rows, dim, scale,
           activation, align(dim, *strides), **blocks)


@triton.jit
def epilogue_backward_kernel(dproduct, partial, grad, saved, bias, grad_row, saved_row, rows, dim, share,
                             scale: tl.float64, ACTIVATION: tl.constexpr, FROM_OUTPUT: tl.constexpr,
                             ALIGN: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_DIM: tl.constexpr):
    acc: tl.constexpr = accumulator(grad)
    dim = multiple(dim, ALIGN)
    part, first, last, col = share_at(tl.program_id(0), rows, dim, share, BLOCK_DIM)
    b = tl.zeros((1, BLOCK_DIM), acc)
    if bias is not None and not FROM_OUTPUT:
        b = load(bias, col, col < dim, acc)[None, :]
    factor = tl.full((), scale, acc)
    sums = tl.zeros((BLOCK_ROWS, BLOCK_DIM), acc)
    for start in tl.range(first, last, BLOCK_ROWS, num_stages=2):
        row = start + tl.arange(0, BLOCK_ROWS)
        live = (row < last)[:, None] & (col < dim)[None, :]
        g = load(grad, row[:, None] * multiple(grad_row, ALIGN) + col[None, :], live, acc)
        if ACTIVATION != NONE:
            z = load(saved, row[:, None] * multiple(saved_row, ALIGN) + col[None, :], live, acc)
            if not FROM_OUTPUT:
                z = factor * (z + b)
            g = activate_backward(g, z, ACTIVATION)
        g *= factor
        tl.store(dproduct + row[:, None] * dim + col[None, :], g, mask=live)
        sums += g
    if partial is not None:
        tl.store(partial + part * dim + col, tl.sum(sums, 0), mask=col < dim)


def linear_epilogue_backward(dproduct, dbias, partial, grad, saved, bias, scale, activation):
    (rows, dim), strides = grad.shape, (grad.stride(0), saved.stride(0))
    parts, share, blocks = share_rows(grad, partial, widest=512)
    launch(grad, epilogue_backward_kernel, parts * ceil_div(dim, blocks["BLOCK_DIM"]), dproduct, partial, grad, saved,
           bias, *strides, rows, dim, share, scale, activation, derivative_from_output(activation),
           align(dim, *strides), **blocks)
    if dbias is not None:
        sum_parts(dbias, partial)
