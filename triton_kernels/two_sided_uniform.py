"""y_i = 0 with probability p_zero, else ± uniform in [low, high), from the random words of counter i alone.

A tile of numbers a program. Nothing is read; each number is written once.
"""
import triton
import triton.language as tl

from .device import accumulator
from .launch import TILE, ceil_div, launch, tile
from .philox import philox


@triton.jit
def with_sign(x, sign):
    """x, negative where sign, a bit, is set."""
    if x.dtype == tl.float64:
        return (x.to(tl.uint64, bitcast=True) ^ (sign.to(tl.uint64) << 63)).to(tl.float64, bitcast=True)
    else:
        return (x.to(tl.uint32, bitcast=True) ^ (sign << 31)).to(tl.float32, bitcast=True)


@triton.jit
def rounded(x, dtype: tl.constexpr):
    """x as a number of dtype, rounded to nearest: Triton's interpreter truncates to bfloat16."""
    if dtype == tl.bfloat16:
        bits = x.to(tl.uint32, bitcast=True)
        x = ((bits + ((bits >> 16) & 1) + 0x7FFF) & 0xFFFF0000).to(tl.float32, bitcast=True)
    return x.to(dtype)


@triton.jit(do_not_specialize=["seed", "zero_below"])
def fill_kernel(y, count, seed: tl.int64, low: tl.float64, span: tl.float64, zero_below: tl.int64, BLOCK_DIM: tl.constexpr):
    acc: tl.constexpr = accumulator(y)
    index = tl.program_id(0).to(tl.int64) * BLOCK_DIM + tl.arange(0, BLOCK_DIM)
    a, b, c, _ = philox(index, tl.cast(seed, tl.int64))
    if acc == tl.float64:
        u = ((b.to(tl.int64) << 21) | (c >> 11).to(tl.int64)).to(acc) * (1.0 / 2**53)
    else:
        u = (b >> 8).to(tl.int32).to(acc) * (1.0 / 2**24)
    number = with_sign(u * tl.full((), span, acc) + tl.full((), low, acc), a & 1)
    number = tl.where((a >> 1).to(tl.int64) < zero_below, 0.0, number)
    tl.store(y + index, rounded(number, y.dtype.element_ty), mask=index < count)


def two_sided_uniform(y, seed, low, high, p_zero):
    count = y.numel()
    blocks = tile(y, 1, count, widest=TILE, per_thread=8)
    launch(y, fill_kernel, ceil_div(count, blocks["BLOCK_DIM"]), y, count, seed, low, high - low, int(p_zero * 2**31 + 0.5),
           BLOCK_DIM=blocks["BLOCK_DIM"], num_warps=blocks["num_warps"])
