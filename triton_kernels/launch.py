"""How work is cut and launched. Every launch of the backend goes through `launch`."""
import math

import torch

TILE = 4096

# Takes launches for CPU tensors, as f(kernel, programs, args, constexprs), while a GPU is emulated.
emulated = None


def launch(on, kernel, programs, *args, **constexprs):
    """Runs kernel on the device of tensor `on`, on its current stream. Without fused multiply-adds: lanes that hold the same
    sum, and store it to the same place, would otherwise differ in its last bit."""
    constexprs["enable_fp_fusion"] = False
    if emulated is not None and on.is_cpu:
        return emulated(kernel, programs, args, constexprs)
    with torch.cuda.device_of(on):
        kernel[(programs,)](*args, **constexprs)


def ceil_div(n, size):
    return -(-n // size)


def power_of_two(n):
    """The next one. Triton's own costs microseconds."""
    return 1 << (n - 1).bit_length()


def align(*lengths):
    """The power of two, 16 at most, that divides dim and the row strides: what a wide access may rely on. Triton itself
    looks for multiples of 16 only, but 16 bytes are 8, 4 or 2 elements."""
    return math.gcd(16, *lengths)


def tile(like, rows, dim, widest, per_thread=16):
    """Block sizes for a tile of [rows, dim] with the dtype of `like`: about TILE values, not wider than `widest`, and
    `per_thread` registers a thread for each matrix. float64 takes two registers, so half of each."""
    words = 2 if like.element_size() == 8 else 1
    block_dim = min(power_of_two(dim), widest // words)
    block_rows = min(power_of_two(rows), max(TILE // words // block_dim, 1))
    num_warps = min(max(block_rows * block_dim * words // (32 * per_thread), 1), 32)
    return dict(BLOCK_ROWS=block_rows, BLOCK_DIM=block_dim, num_warps=num_warps)


def elementwise_tile(*matrices):
    """rows, dim, row strides and block sizes for matrices of one shape. Contiguous ones are taken as a single row."""
    rows, dim = matrices[0].shape
    if all(matrix.is_contiguous() for matrix in matrices):
        return 1, rows * dim, [0] * len(matrices), tile(matrices[0], 1, rows * dim, widest=TILE, per_thread=8)
    return rows, dim, [matrix.stride(0) for matrix in matrices], tile(matrices[0], rows, dim, widest=1024, per_thread=8)


def tiles(rows, dim, blocks):
    return ceil_div(rows, blocks["BLOCK_ROWS"]) * ceil_div(dim, blocks["BLOCK_DIM"])
