"""cvt between all types, with every rounding."""

import math
from fractions import Fraction
from math import isnan, nan

import number_formats as numbers
import pytest
from instruction_kernels import check
from number_formats import FORMATS, clamped

INTEGERS = [f"{kind}{bits}" for kind in "su" for bits in (8, 16, 32, 64)]
FLOATS = ["f16", "bf16", "f32", "f64"]
MODES = ("rn", "rz", "rm", "rp")
TO_INTEGRAL = {"rn": round, "rz": math.trunc, "rm": math.floor, "rp": math.ceil}


def wrapped(value: int, to) -> int:
    return to.decode(value & ((1 << to.bits) - 1))


@pytest.mark.parametrize("source", INTEGERS)
def test_integers(source):
    for name in INTEGERS:
        to = FORMATS[name]
        check(f"cvt.{name}.{source} {{0}}, {{1}}", name, source, lambda a, to=to: wrapped(a, to))
        check(f"cvt.sat.{name}.{source} {{0}}, {{1}}", name, source, lambda a, to=to: clamped(a, to))


def test_registers_wider_than_types():
    check("cvt.s32.s8 {0}, {1}", "s32", "u32", lambda a: wrapped(a, FORMATS["s8"]))
    check("cvt.u64.u8 {0}, {1}", "u64", "u64", lambda a: a & 0xFF)
    check("cvt.s8.s32 {0}, {1}", "s32", "u32", lambda a: wrapped(a, FORMATS["s8"]))
    check("cvt.rn.f32.s16 {0}, {1}", "f32", "u32", lambda a: FORMATS["f32"].encode(float(wrapped(a, FORMATS["s16"]))))


@pytest.mark.parametrize("source", INTEGERS)
@pytest.mark.parametrize("name", FLOATS)
def test_integers_to_floats(source, name):
    to = FORMATS[name]
    for mode in MODES:
        rounded = lambda a, mode=mode: to.encode(to.rounded(Fraction(a) if a else 0.0, mode))
        check(f"cvt.{mode}.{name}.{source} {{0}}, {{1}}", name, source, rounded)


@pytest.mark.parametrize("source", FLOATS)
@pytest.mark.parametrize("name", INTEGERS)
def test_floats_to_integers(source, name):
    to = FORMATS[name]
    of_nan = 1 << (to.bits - 1) if source == "f64" or to.bits == 64 else 0

    def integer(value, mode):
        if isnan(value):
            return wrapped(of_nan, to)
        return clamped(math.copysign(1 << 80, value).__trunc__() if math.isinf(value) else TO_INTEGRAL[mode](value), to)

    for mode in MODES:
        check(f"cvt.{mode}i.{name}.{source} {{0}}, {{1}}", name, source, lambda a, mode=mode: integer(a, mode))
    if source == "f32":
        flushed = FORMATS["f32"].flushed
        check(f"cvt.rpi.ftz.{name}.f32 {{0}}, {{1}}", name, source, lambda a: integer(flushed(a), "rp"))


@pytest.mark.parametrize("source", FLOATS)
@pytest.mark.parametrize("name", FLOATS)
def test_between_floats(source, name):
    to, wide = FORMATS[name], FORMATS[source].bits
    exact = lambda a: a if not math.isfinite(a) or a == 0 else Fraction(a)
    if name == source or wide < to.bits:
        check(f"cvt.{name}.{source} {{0}}, {{1}}", name, source, lambda a: to.encode(a))
        check(f"cvt.sat.{name}.{source} {{0}}, {{1}}", name, source, lambda a: to.encode(numbers.saturated(a)))
    for mode in MODES:
        rounded = lambda a, mode=mode: to.rounded(exact(a), mode)
        if name != source and wide >= to.bits:
            check(f"cvt.{mode}.{name}.{source} {{0}}, {{1}}", name, source, lambda a, r=rounded: to.encode(r(a)))
            saturated = lambda a, r=rounded: to.encode(numbers.saturated(r(a)))
            check(f"cvt.{mode}.sat.{name}.{source} {{0}}, {{1}}", name, source, saturated)
        if name == source:
            integral = lambda a, mode=mode: to.encode(math.copysign(TO_INTEGRAL[mode](a), a) if math.isfinite(a) else a)
            check(f"cvt.{mode}i.{name}.{source} {{0}}, {{1}}", name, source, integral)


def test_flushing():
    f32, f16 = FORMATS["f32"], FORMATS["f16"]
    check("cvt.ftz.f32.f32 {0}, {1}", "f32", "f32", lambda a: f32.encode(f32.flushed(a)))
    check("cvt.rn.ftz.f16.f32 {0}, {1}", "f16", "f32", lambda a: f16.encode(f16.rounded(f32.flushed(a))))
    check("cvt.rn.ftz.f32.f64 {0}, {1}", "f32", "f64", lambda a: f32.encode(f32.flushed(f32.rounded(a))))
    check("cvt.ftz.f32.bf16 {0}, {1}", "f32", "bf16", lambda a: f32.encode(f32.flushed(a)))


def relu(value: float) -> float:
    return 0.0 if value <= 0 else value


@pytest.mark.parametrize("name", ("f16", "bf16"))
def test_pairs_of_halves(name):
    to = FORMATS[name]
    for mode in ("rn", "rz"):
        bits = lambda a, mode=mode: to.encode(to.rounded(a, mode))
        both = lambda a, b, bits=bits: bits(a) << 16 | bits(b)
        check(f"cvt.{mode}.{name}x2.f32 {{0}}, {{1}}, {{2}}", "u32", "f32 f32", both)
        clamping = lambda a, b, both=both: both(relu(a), relu(b))
        check(f"cvt.{mode}.relu.{name}x2.f32 {{0}}, {{1}}, {{2}}", "u32", "f32 f32", clamping)
    check(f"cvt.rn.relu.{name}.f32 {{0}}, {{1}}", name, "f32", lambda a: to.encode(relu(to.rounded(a))))


def test_tf32():
    f32 = FORMATS["f32"]

    def tf32(value, rounding):
        """11 bits of a mantissa remain."""
        if isnan(value):
            return f32.encode(nan)
        bits = f32.encode(value)
        if math.isinf(value):
            return bits
        steps = Fraction(bits & 0x7FFFFFFF, 1 << 13)
        return bits & 0x80000000 | rounding(steps) << 13

    away = lambda steps: math.floor(steps + Fraction(1, 2))
    check("cvt.rna.tf32.f32 {0}, {1}", "u32", "f32", lambda a: tf32(a, away))
    check("cvt.rn.tf32.f32 {0}, {1}", "u32", "f32", lambda a: tf32(a, round))
    check("cvt.rz.tf32.f32 {0}, {1}", "u32", "f32", lambda a: tf32(a, math.floor))


@pytest.mark.parametrize("name", ("e4m3", "e5m2"))
def test_bytes(name):
    """e4m3 has no infinities: their place, but for the last, is one more exponent."""
    largest, f16 = {"e4m3": 448.0, "e5m2": 57344.0}[name], FORMATS["f16"]
    to = FORMATS[name] if name == "e5m2" else numbers.Format("e4m3", 9, 3, 5)  # whose exponents have another bias
    scale = 1.0 if name == "e5m2" else 2.0**-8

    def byte(value):
        if isnan(value):
            return 0x7F
        size = min(to.rounded(min(abs(value), largest) * scale), largest * scale)
        return to.encode(size) | (0x80 if math.copysign(1, value) < 0 else 0)

    def decoded(bits):
        value = to.decode(bits & 0x7F) / scale
        sign = -1 if bits >> 7 else 1
        return 0x7FFF if isnan(value) or bits & 0x7F == 0x7F else f16.encode(math.copysign(value, sign))

    both = lambda a, b: byte(a) << 8 | byte(b)
    check(f"cvt.rn.satfinite.{name}x2.f32 {{0}}, {{1}}, {{2}}", "u16", "f32 f32", both)
    halves = lambda a: both(f16.decode(a >> 16), f16.decode(a & 0xFFFF))
    check(f"cvt.rn.satfinite.{name}x2.f16x2 {{0}}, {{1}}", "u16", "u32", halves)
    back = lambda a: decoded(a >> 8) << 16 | decoded(a & 0xFF)
    check(f"cvt.rn.f16x2.{name}x2 {{0}}, {{1}}", "u32", "u16", back, given=[[i << 8 | i ^ 0x5A for i in range(256)]])


def test_packs():
    for name in ("s16", "u16"):
        part = lambda a, to=FORMATS[name]: to.encode(clamped(a, to))
        check(f"cvt.pack.sat.{name}.s32 {{0}}, {{1}}, {{2}}", "u32", "s32 s32", lambda a, b, p=part: p(a) << 16 | p(b))
    for name in ("s8", "u8"):
        part = lambda a, to=FORMATS[name]: to.encode(clamped(a, to))
        pushed = lambda a, b, c, p=part: c << 16 | p(a) << 8 | p(b)
        check(f"cvt.pack.sat.{name}.s32.b32 {{0}}, {{1}}, {{2}}, {{3}}", "u32", "s32 s32 u32", pushed)
