"""y = x · 2⁻ᵏ with the smallest k ≥ 0 for which Σ|x| · 2⁻ᵏ ≤ threshold; 0 where the sum is not finite.

Programs add up their shares of |x|, one program adds the shares and finds k, and programs multiply a tile each: x is
read twice, the second time mostly out of the L2 cache, and y written once. The host waits for nothing.
"""
import triton
import triton.language as tl

from .device import accumulator, load
from .launch import TILE, align, ceil_div, launch


@triton.jit
def power(exponent, acc: tl.constexpr):
    """2 to an exponent of a normal number."""
    if acc == tl.float64:
        bits = (exponent.to(tl.int64) + 1023) << 52
    else:
        bits = (exponent.to(tl.int32) + 127) << 23
    return bits.to(acc, bitcast=True)


@triton.jit
def factor(k, i: tl.constexpr, sign: tl.constexpr, acc: tl.constexpr):
    """The i-th of three factors of 2 to the k or −k, none of which is subnormal or infinite."""
    most: tl.constexpr = 1022 if acc == tl.float64 else 126
    return power(sign * tl.minimum(tl.maximum(k - i * most, 0), most), acc)


@triton.jit
def doubled(threshold, times, acc: tl.constexpr):
    once = tl.full((), threshold, acc) * factor(times, 0, 1, acc)
    return once * factor(times, 1, 1, acc) * factor(times, 2, 1, acc)


@triton.jit
def sums_kernel(partial, x, dim, share, DOWN: tl.constexpr, BLOCK_DIM: tl.constexpr):
    """The sum, and the sum of numbers scaled by 2^DOWN, which cannot overflow."""
    acc: tl.constexpr = accumulator(x)
    part = tl.program_id(0).to(tl.int64)
    first, last = part * share, tl.minimum((part + 1) * share, dim)
    sums = tl.zeros((BLOCK_DIM,), acc)
    scaled = tl.zeros((BLOCK_DIM,), acc)
    for start in range(first, last, BLOCK_DIM):
        col = start + tl.arange(0, BLOCK_DIM)
        size = tl.abs(load(x, col, col < last, acc))
        sums += size
        scaled += size * power(tl.full((), DOWN, tl.int32), acc)
    tl.store(partial + 2 * part, tl.sum(sums, 0))
    tl.store(partial + 2 * part + 1, tl.sum(scaled, 0))


@triton.jit
def exponent_kernel(exponent, partial, parts, threshold: tl.float64, SHIFT: tl.constexpr, STEPS: tl.constexpr,
                    BLOCK_DIM: tl.constexpr):
    """k is the number of j ≥ 0 for which the sum exceeds threshold · 2ʲ."""
    acc: tl.constexpr = accumulator(partial)
    sums = tl.zeros((BLOCK_DIM,), acc)
    scaled = tl.zeros((BLOCK_DIM,), acc)
    for start in range(0, parts, BLOCK_DIM):
        part = start + tl.arange(0, BLOCK_DIM)
        sums += load(partial, 2 * part, part < parts, acc)
        scaled += load(partial, 2 * part + 1, part < parts, acc)
    total, small = tl.sum(sums, 0), tl.sum(scaled, 0)
    step = tl.arange(0, STEPS)
    few = tl.sum((total > doubled(threshold, step, acc)).to(tl.int32), 0)
    # Scaled down, a threshold may be rounded, but then a sum that overflows is far above it.
    lowered = doubled(threshold, step - SHIFT, acc) * power(tl.minimum(step - SHIFT, 0), acc)
    many = tl.sum((small > lowered).to(tl.int32), 0)
    infinite = tl.full((), float("inf"), acc)
    k = tl.where(total < infinite, few, tl.where(small < infinite, many, 0))
    tl.store(exponent, k.to(acc))


@triton.jit
def scale_kernel(y, x, exponent, dim, BLOCK_DIM: tl.constexpr):
    """In factors that do not underflow, the last one last: only the last product may be subnormal, and is rounded once."""
    acc: tl.constexpr = accumulator(y)
    col = tl.program_id(0).to(tl.int64) * BLOCK_DIM + tl.arange(0, BLOCK_DIM)
    k = tl.load(exponent).to(tl.int32)
    xs = load(x, col, col < dim, acc)
    tl.store(y + col, xs * factor(k, 2, -1, acc) * factor(k, 1, -1, acc) * factor(k, 0, -1, acc), mask=col < dim)


def halve_until_forward(y, exponent, partial, x, threshold):
    dim, parts, aligned = x.shape[1], partial.shape[0], align(x.shape[1])
    double = x.element_size() == 8
    shift, steps = (512, 4096) if double else (64, 512)
    launch(x, sums_kernel, parts, partial, x, dim, ceil_div(dim // aligned, parts) * aligned, -shift, BLOCK_DIM=TILE,
           num_warps=8)
    launch(x, exponent_kernel, 1, exponent, partial, parts, threshold, shift, steps, BLOCK_DIM=1024, num_warps=8)
    halve_until_backward(y, x, exponent)


def halve_until_backward(dx, grad, exponent):
    dim = grad.shape[1]
    launch(grad, scale_kernel, ceil_div(dim, TILE), dx, grad, exponent, dim, BLOCK_DIM=TILE, num_warps=4)
