"""Philox4x32-10, as csrc/philox.h has it."""
import triton
import triton.language as tl


@triton.jit
def wide_product(a, b: tl.constexpr):
    """High and low word of the product of 32-bit words."""
    product = a.to(tl.uint64) * tl.full((), b, tl.uint64)
    return (product >> 32).to(tl.uint32), product.to(tl.uint32)


@triton.jit
def philox(counter, seed):
    """The four random words of each 64-bit counter."""
    a, b = counter.to(tl.uint32), (counter >> 32).to(tl.uint32)
    c, d = tl.zeros_like(a), tl.zeros_like(a)
    key, other_key = seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF
    for step in tl.static_range(10):
        p_high, p_low = wide_product(a, 0xD2511F53)
        q_high, q_low = wide_product(c, 0xCD9E8D57)
        a = q_high ^ b ^ (key + step * 0x9E3779B9).to(tl.uint32)
        b = q_low
        c = p_high ^ d ^ (other_key + step * 0xBB67AE85).to(tl.uint32)
        d = p_low
    return a, b, c, d
