"""What somebody might write: a right kernel, and one that forgets its mask."""

import triton
import triton.language as tl


@triton.jit
def scale(y, x, factor, count, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i, tl.load(x + i, mask=i < count) * factor, mask=i < count)


@triton.jit
def scale_without_mask(y, x, factor, count, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i, tl.load(x + i) * factor)
