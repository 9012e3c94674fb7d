"""Sums over rows, in two stages and the same bits each time: a program adds up its own contiguous share of the rows
into its row of partial, then the rows of partial are added in order."""
import triton
import triton.language as tl

from .device import accumulator, load, multiple
from .launch import TILE, align, ceil_div, launch, power_of_two, tile


def share_rows(like, partial, widest):
    """Number of shares, rows of each and block sizes. Where no sum is asked for, a share is one tile."""
    rows, dim = like.shape
    if partial is None:
        blocks = tile(like, rows, dim, widest)
        return ceil_div(rows, blocks["BLOCK_ROWS"]), blocks["BLOCK_ROWS"], blocks
    parts = partial.shape[0]
    share = ceil_div(rows, parts)
    return parts, share, tile(like, share, dim, widest)


@triton.jit
def share_at(index, rows, dim, share, BLOCK_DIM: tl.constexpr):
    """Part, first row, row after the last, and columns of a program. Programs are counted along dim first."""
    across = tl.cdiv(dim, BLOCK_DIM)
    part = (index // across).to(tl.int64)
    col = (index % across).to(tl.int64) * BLOCK_DIM + tl.arange(0, BLOCK_DIM)
    return part, part * share, tl.minimum((part + 1) * share, rows), col


@triton.jit
def sum_parts_kernel(total, partial, parts, dim, size, ALIGN: tl.constexpr, BLOCK_ROWS: tl.constexpr,
                     BLOCK_DIM: tl.constexpr):
    """Programs are counted along dim first."""
    acc: tl.constexpr = accumulator(partial)
    dim = multiple(dim, ALIGN)
    across = tl.cdiv(dim, BLOCK_DIM)
    group = (tl.program_id(0) // across).to(tl.int64)
    col = (tl.program_id(0) % across).to(tl.int64) * BLOCK_DIM + tl.arange(0, BLOCK_DIM)
    partial += group * parts * dim
    sums = tl.zeros((BLOCK_ROWS, BLOCK_DIM), acc)
    for start in range(0, parts, BLOCK_ROWS):
        part = start + tl.arange(0, BLOCK_ROWS).to(tl.int64)
        live = (part < parts)[:, None] & (col < dim)[None, :]
        sums += load(partial, part[:, None] * dim + col[None, :], live, acc)
    tl.store(total + group * dim + col, tl.sum(sums, 0) / size, mask=col < dim)


def sum_parts(total, partial, groups=1, size=1):
    """total[group, dim] = Σ_parts partial[group, parts, dim] / size. Few columns a program where the parts are many: the
    columns may be few."""
    dim = partial.shape[-1]
    parts = partial.numel() // (groups * dim)
    blocks = tile(partial, parts, dim, widest=min(max(TILE // power_of_two(parts), 32), 512))
    launch(partial, sum_parts_kernel, groups * ceil_div(dim, blocks["BLOCK_DIM"]), total, partial, parts, dim, size,
           align(dim), **blocks)
