"""y = silu(gate) · up, silu(a) = a · σ(a).

Element by element, one tile a program; contiguous matrices are taken as one long row. Forward reads two matrices and
writes one, backward reads three and writes two: σ is computed again, nothing is saved.
"""
import triton
import triton.language as tl

from .device import accumulator, load, multiple, tile_at
from .launch import align, elementwise_tile, launch, tiles


@triton.jit
def forward_kernel(y, gate, up, y_row, gate_row, up_row, rows, dim, ALIGN: tl.constexpr, BLOCK_ROWS: tl.constexpr,
                   BLOCK_DIM: tl.constexpr):
    acc: tl.constexpr = accumulator(y)
    dim = multiple(dim, ALIGN)
    row, col = tile_at(tl.program_id(0), dim, BLOCK_ROWS, BLOCK_DIM)
    live = (row < rows)[:, None] & (col < dim)[None, :]
    row, col = row[:, None], col[None, :]
    a = load(gate, row * multiple(gate_row, ALIGN) + col, live, acc)
    b = load(up, row * multiple(up_row, ALIGN) + col, live, acc)
    tl.store(y + row * multiple(y_row, ALIGN) + col, a * tl.sigmoid(a) * b, mask=live)


@triton.jit
def backward_kernel(dgate, dup, grad, gate, up, dgate_row, dup_row, grad_row, gate_row, up_row, rows, dim,
                    ALIGN: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_DIM: tl.constexpr):
    acc: tl.constexpr = accumulator(grad)
    dim = multiple(dim, ALIGN)
    row, col = tile_at(tl.program_id(0), dim, BLOCK_ROWS, BLOCK_DIM)
    live = (row < rows)[:, None] & (col < dim)[None, :]
    row, col = row[:, None], col[None, :]
    g = load(grad, row * multiple(grad_row, ALIGN) + col, live, acc)
    a = load(gate, row * multiple(gate_row, ALIGN) + col, live, acc)
    b = load(up, row * multiple(up_row, ALIGN) + col, live, acc)
    s = tl.sigmoid(a)
    tl.store(dgate + row * multiple(dgate_row, ALIGN) + col, g * b * s * (1 + a * (1 - s)), mask=live)
    tl.store(dup + row * multiple(dup_row, ALIGN) + col, g * a * s, mask=live)


def run(kernel, *matrices):
    rows, dim, strides, blocks = elementwise_tile(*matrices)
    launch(matrices[0], kernel, tiles(rows, dim, blocks), *matrices, *strides, rows, dim, align(dim, *strides),
           **blocks)


def swiglu_forward(y, gate, up):
    run(forward_kernel, y, gate, up)


def swiglu_backward(dgate, dup, grad, gate, up):
    run(backward_kernel, dgate, dup, grad, gate, up)
