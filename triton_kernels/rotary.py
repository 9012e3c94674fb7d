"""Every pair (a, b) of the rotated features of a head becomes (a · c − b · s, b · c + a · s); the other features are copied.

A program takes some tokens of a batch, some heads of q or of k, and a tile of the pairs, and reads the tables once for its heads.
Halves are two accesses to a row; interleaved pairs come as they lie and part in registers.
"""
import triton
import triton.language as tl

from .device import accumulator, multiple
from .launch import align, ceil_div, launch, power_of_two

PAIRS = 2048  # of a tile
MOST_HEADS = 8
WIDEST = 1024


@triton.jit
def table_at(table, batch, row, live, known, col, half, table_batch, table_row, ALIGN: tl.constexpr):
    """[tokens, 1, pairs]"""
    place = batch * multiple(table_batch, ALIGN) + row[:, None] * multiple(table_row, ALIGN) + col[None, :]
    values = tl.load(table + place, mask=(live & known)[:, None] & (col < half)[None, :], other=0.0)
    return tl.where(known[:, None], values, float("nan"))[:, None, :]


@triton.jit
def turn(y, x, y_place, x_place, live, c, s, start, half, INTERLEAVED: tl.constexpr, BLOCK_DIM: tl.constexpr):
    acc: tl.constexpr = accumulator(x)
    if INTERLEAVED:
        col = 2 * start + tl.arange(0, 2 * BLOCK_DIM)[None, None, :]
        mask = live & (col < 2 * half)
        held = tl.load(x + x_place + col, mask=mask, other=0.0).to(acc)
        a, b = tl.split(tl.reshape(held, (held.shape[0], held.shape[1], BLOCK_DIM, 2)))
        turned = tl.reshape(tl.join(a * c - b * s, b * c + a * s), held.shape)
        tl.store(y + y_place + col, turned, mask=mask)
    else:
        col = start + tl.arange(0, BLOCK_DIM)[None, None, :]
        mask = live & (col < half)
        a = tl.load(x + x_place + col, mask=mask, other=0.0).to(acc)
        b = tl.load(x + x_place + col + half, mask=mask, other=0.0).to(acc)
        tl.store(y + y_place + col, a * c - b * s, mask=mask)
        tl.store(y + y_place + col + half, b * c + a * s, mask=mask)


@triton.jit
def rotate(y, x, y_batch, y_token, y_head, x_batch, x_token, x_head, batch, token, tokens, tile, heads, c, s, start, half, dim,
           ALIGN: tl.constexpr, INTERLEAVED: tl.constexpr, COPIES: tl.constexpr, BLOCK_HEADS: tl.constexpr, BLOCK_DIM: tl.constexpr):
    head = tile * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS)
    live = (token < tokens)[:, None, None] & (head < heads)[None, :, None]
    token, head = token[:, None, None], head.to(tl.int64)[None, :, None]
    y_place = batch * multiple(y_batch, ALIGN) + token * multiple(y_token, ALIGN) + head * multiple(y_head, ALIGN)
    x_place = batch * multiple(x_batch, ALIGN) + token * multiple(x_token, ALIGN) + head * multiple(x_head, ALIGN)
    turn(y, x, y_place, x_place, live, c, s, start, half, INTERLEAVED, BLOCK_DIM)
    if COPIES:
        if start == 0:
            for first in range(2 * half, dim, BLOCK_DIM):
                col = first + tl.arange(0, BLOCK_DIM)[None, None, :]
                mask = live & (col < dim)
                tl.store(y + y_place + col, tl.load(x + x_place + col, mask=mask, other=0.0), mask=mask)


@triton.jit
def rotary_kernel(q_out, k_out, q, k, cos, sin, positions, q_out_batch, q_out_token, q_out_head, k_out_batch, k_out_token, k_out_head,
                  q_batch, q_token, q_head, k_batch, k_token, k_head, cos_batch, cos_row, sin_batch, sin_row, positions_batch, tokens,
                  rows, q_heads, k_heads, half, dim, ALIGN: tl.constexpr, INTERLEAVED: tl.constexpr, INVERSE: tl.constexpr,
                  COPIES: tl.constexpr, BLOCK_TOKENS: tl.constexpr, BLOCK_HEADS: tl.constexpr, BLOCK_DIM: tl.constexpr):
    acc: tl.constexpr = accumulator(q)
    half, dim = multiple(half, ALIGN), multiple(dim, ALIGN)
    across, q_tiles = tl.cdiv(half, BLOCK_DIM), tl.cdiv(q_heads, BLOCK_HEADS)
    head_tiles, token_tiles = q_tiles + tl.cdiv(k_heads, BLOCK_HEADS), tl.cdiv(tokens, BLOCK_TOKENS)
    index = tl.program_id(0)
    start, head_tile = index % across * BLOCK_DIM, index // across % head_tiles
    index = index // (across * head_tiles)
    batch = (index // token_tiles).to(tl.int64)
    token = (index % token_tiles).to(tl.int64) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    live, row = token < tokens, token
    if positions is not None:
        row = tl.load(positions + batch * positions_batch + token, mask=live, other=0)
    known = (row >= 0) & (row < rows)
    col = start + tl.arange(0, BLOCK_DIM)
    c = table_at(cos, batch, row, live, known, col, half, cos_batch, cos_row, ALIGN).to(acc)
    s = table_at(sin, batch, row, live, known, col, half, sin_batch, sin_row, ALIGN).to(acc)
    if INVERSE:
        s = -s
    if head_tile < q_tiles:
        rotate(q_out, q, q_out_batch, q_out_token, q_out_head, q_batch, q_token, q_head, batch, token, tokens, head_tile, q_heads, c, s,
               start, half, dim, ALIGN, INTERLEAVED, COPIES, BLOCK_HEADS, BLOCK_DIM)
    elif k is not None:
        rotate(k_out, k, k_out_batch, k_out_token, k_out_head, k_batch, k_token, k_head, batch, token, tokens, head_tile - q_tiles, k_heads,
               c, s, start, half, dim, ALIGN, INTERLEAVED, COPIES, BLOCK_HEADS, BLOCK_DIM)


def tile(q, heads, half):
    """Block sizes and warps: 16 pairs a thread. float64 takes two registers, so half of each."""
    words = 2 if q.element_size() == 8 else 1
    block_dim = min(power_of_two(half), WIDEST // words)
    block_heads = min(power_of_two(heads), MOST_HEADS, max(PAIRS // words // block_dim, 1))
    block_tokens = min(power_of_two(q.shape[1]), max(PAIRS // words // (block_dim * block_heads), 1))
    pairs = block_dim * block_heads * block_tokens
    return dict(BLOCK_TOKENS=block_tokens, BLOCK_HEADS=block_heads, BLOCK_DIM=block_dim, num_warps=max(pairs * words // 512, 1))


def rotary(q_out, k_out, q, k, cos, sin, positions, interleaved, inverse):
    (batch, tokens, q_heads, dim), half = q.shape, cos.shape[2]
    k_heads = 0 if k is None else k.shape[2]
    strides = [stride for x in (q_out, k_out, q, k) for stride in ((0, 0, 0) if x is None else x.stride()[:3])]
    tables = [stride for table in (cos, sin) for stride in table.stride()[:2]]
    blocks = tile(q, max(q_heads, k_heads), half)
    programs = ceil_div(half, blocks["BLOCK_DIM"]) * batch * ceil_div(tokens, blocks["BLOCK_TOKENS"])
    programs *= sum(ceil_div(heads, blocks["BLOCK_HEADS"]) for heads in (q_heads, k_heads))
    launch(q, rotary_kernel, programs, q_out, k_out, q, k, cos, sin, positions, *strides, *tables,
           0 if positions is None else positions.stride(0), tokens, cos.shape[1], q_heads, k_heads, half, dim,
           align(half, dim, *strides, *tables), bool(interleaved), bool(inverse), dim > 2 * half, **blocks)
