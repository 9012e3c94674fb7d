"""The half spectrum for the backward of leading_fourier: the gradient scaled, halved where a coefficient stands for two,
and zeros behind it.

Complex numbers are pairs of columns. One tile a program; every number is read once and written once.
"""
import triton
import triton.language as tl

from .device import accumulator, load, multiple, tile_at
from .launch import align, launch, tile, tiles


@triton.jit
def backward_kernel(dspectrum, grad, grad_row, rows, given, dim, last, scale: tl.float64, ALIGN: tl.constexpr,
                    BLOCK_ROWS: tl.constexpr, BLOCK_DIM: tl.constexpr):
    acc: tl.constexpr = accumulator(grad)
    dim, given = multiple(dim, ALIGN), multiple(given, ALIGN)
    row, col = tile_at(tl.program_id(0), dim, BLOCK_ROWS, BLOCK_DIM)
    row, col = row[:, None], col[None, :]
    g = load(grad, row * multiple(grad_row, ALIGN) + col, (row < rows) & (col < given), acc)
    factor = tl.full((), scale, acc)
    is_real = (col // 2 == 0) | (col // 2 == last)
    d = tl.where(is_real, tl.where(col % 2 == 0, g * factor, 0.0), g * (factor / 2))
    tl.store(dspectrum + row * dim + col, d, mask=(row < rows) & (col < dim))


def leading_fourier_backward(dspectrum, grad, scale, samples):
    (rows, dim), given, grad_row = dspectrum.shape, grad.shape[1], grad.stride(0)
    last = -1 if samples % 2 else samples // 2
    blocks = tile(dspectrum, rows, dim, widest=1024, per_thread=8)
    launch(grad, backward_kernel, tiles(rows, dim, blocks), dspectrum, grad, grad_row, rows, given, dim, last, scale,
           align(dim, given, grad_row), **blocks)
