"""y = activation(gate) · up. Without up the gate takes its place.

Element by element, one tile a program; contiguous matrices are taken as one long row. Forward reads two matrices and
writes one, backward reads three and writes two: the activation is computed again, nothing is saved.
"""
import triton
import triton.language as tl

from .activation import activate, activate_backward
from .device import accumulator, load, multiple, tile_at
from .launch import align, elementwise_tile, launch, tiles


@triton.jit
def forward_kernel(y, gate, up, y_row, gate_row, up_row, rows, dim, ACTIVATION: tl.constexpr, ALIGN: tl.constexpr,
                   BLOCK_ROWS: tl.constexpr, BLOCK_DIM: tl.constexpr):
    acc: tl.constexpr = accumulator(y)
    dim = multiple(dim, ALIGN)
    row, col = tile_at(tl.program_id(0), dim, BLOCK_ROWS, BLOCK_DIM)
    live = (row < rows)[:, None] & (col < dim)[None, :]
    row, col = row[:, None], col[None, :]
    a = load(gate, row * multiple(gate_row, ALIGN) + col, live, acc)
    b = a
    if up is not None:
        b = load(up, row * multiple(up_row, ALIGN) + col, live, acc)
    tl.store(y + row * multiple(y_row, ALIGN) + col, activate(a, ACTIVATION) * b, mask=live)


@triton.jit
def backward_kernel(dgate, dup, grad, gate, up, dgate_row, dup_row, grad_row, gate_row, up_row, rows, dim,
                    ACTIVATION: tl.constexpr, ALIGN: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_DIM: tl.constexpr):
    acc: tl.constexpr = accumulator(grad)
    dim = multiple(dim, ALIGN)
    row, col = tile_at(tl.program_id(0), dim, BLOCK_ROWS, BLOCK_DIM)
    live = (row < rows)[:, None] & (col < dim)[None, :]
    row, col = row[:, None], col[None, :]
    g = load(grad, row * multiple(grad_row, ALIGN) + col, live, acc)
    a = load(gate, row * multiple(gate_row, ALIGN) + col, live, acc)
    if dgate is not None:
        if up is not None:
            b = load(up, row * multiple(up_row, ALIGN) + col, live, acc)
            d = activate_backward(g * b, a, ACTIVATION)
        else:
            d = activate_backward(g * a, a, ACTIVATION) + g * activate(a, ACTIVATION)
        tl.store(dgate + row * multiple(dgate_row, ALIGN) + col, d, mask=live)
    if dup is not None:
        tl.store(dup + row * multiple(dup_row, ALIGN) + col, g * activate(a, ACTIVATION), mask=live)


def run(kernel, activation, *matrices):
    given = [matrix for matrix in matrices if matrix is not None]
    rows, dim, strides, blocks = elementwise_tile(*given)
    aligned, of_given = align(dim, *strides), iter(strides)
    strides = [0 if matrix is None else next(of_given) for matrix in matrices]
    launch(given[0], kernel, tiles(rows, dim, blocks), *matrices, *strides, rows, dim, activation, aligned, **blocks)


def gate_forward(y, gate, up, activation):
    run(forward_kernel, activation, y, gate, up)


def gate_backward(dgate, dup, grad, gate, up, activation):
    run(backward_kernel, activation, dgate, dup, grad, gate, up)
