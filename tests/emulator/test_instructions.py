"""Every kind of instruction against exact arithmetic in Python, for ordinary and extreme values."""

import itertools
import math
from math import isnan

import number_formats as numbers
import pytest
from instruction_kernels import check, run
from number_formats import FORMATS, clamped

MODES = ("rn", "rz", "rm", "rp")


def check_float(opcode, type, arity, function, lanes=1):
    """`function` takes values and a rounding mode, and gives the exact result."""
    format, parts = FORMATS[type], opcode.split(".")
    mode = next((part for part in parts if part in MODES), "rn")

    def expected(*values):
        if "ftz" in parts:
            values = [format.flushed(value) for value in values]
        value = format.rounded(function(*values, mode=mode), mode)
        value = format.flushed(value) if "ftz" in parts else value
        value = numbers.saturated(value) if "sat" in parts else value
        value = 0.0 if "relu" in parts and value <= 0 else value
        return format.encode(value)

    operands = ", ".join(f"{{{i}}}" for i in range(arity + 1))
    check(f"{opcode} {operands}", type, " ".join([type] * arity), expected, lanes)


FLOAT_OPERATIONS = {
    "add": (2, numbers.add), "sub": (2, numbers.subtract), "mul": (2, numbers.multiply), "fma": (3, numbers.fma),
    "div": (2, numbers.divide), "sqrt": (1, numbers.square_root), "rcp": (1, numbers.reciprocal),
}  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", FLOAT_OPERATIONS)
def test_float_arithmetic(name, mode):
    arity, function = FLOAT_OPERATIONS[name]
    for modifiers in ("", ".ftz", ".sat", ".ftz.sat"):
        if name in ("add", "sub", "mul", "fma") or "sat" not in modifiers:
            check_float(f"{name}.{mode}{modifiers}.f32", "f32", arity, function)
    check_float(f"{name}.{mode}.f64", "f64", arity, function)


@pytest.mark.parametrize("type", ("f16", "bf16"))
@pytest.mark.parametrize("name", ("add", "sub", "mul", "fma"))
def test_half_arithmetic(name, type):
    arity, function = FLOAT_OPERATIONS[name]
    modifiers = ["", *([".ftz", ".sat", ".ftz.sat"] if type == "f16" else []), *([".relu"] if name == "fma" else [])]
    for modifier in modifiers:
        check_float(f"{name}.rn{modifier}.{type}", type, arity, function)
        check_float(f"{name}.rn{modifier}.{type}x2", type, arity, function, lanes=2)


@pytest.mark.parametrize("type", ("f16", "bf16"))
@pytest.mark.parametrize("name", ("add", "sub", "fma"))
def test_mixed_arithmetic(name, type):
    """The last operand and the result are f32, the others are not."""
    arity, function = FLOAT_OPERATIONS[name]
    f32, operands = FORMATS["f32"], ", ".join(f"{{{i}}}" for i in range(arity + 1))
    for mode, saturated in itertools.product(MODES, (False, True)):

        def expected(*values, mode=mode, saturated=saturated):
            value = f32.rounded(function(*values, mode=mode), mode)
            return f32.encode(numbers.saturated(value) if saturated else value)

        opcode = f"{name}.{mode}{'.sat' if saturated else ''}.f32.{type}"
        check(f"{opcode} {operands}", "f32", " ".join([type] * (arity - 1) + ["f32"]), expected)


def test_products_and_sums_are_rounded_once():
    """1.0078125 × 1.5 lies halfway between two bf16 numbers; what is added decides, and no double holds the sum."""
    for tiny, result in ((0x0D80, 0x3FC2), (0x8D80, 0x3FC1)):
        given = [[0x3F81] * 32, [0x3FC0] * 32, [tiny] * 32]
        expected = lambda a, b, c, result=result: result
        check("fma.rn.bf16 {0}, {1}, {2}, {3}", "u16", "u16 u16 u16", expected, given=given)


@pytest.mark.parametrize("type", ("f16", "bf16", "f32", "f64"))
def test_extremes(type):
    for name, function in (("min", numbers.smaller), ("max", numbers.larger)):
        plain = lambda a, b, mode, f=function: f(a, b)
        with_nan = lambda a, b, mode, f=function: numbers.with_nan(f)(a, b)
        check_float(f"{name}.{type}", type, 2, plain)
        if type != "f64":
            check_float(f"{name}.NaN.{type}", type, 2, with_nan)
        if type in ("f16", "f32"):
            check_float(f"{name}.ftz.{type}", type, 2, plain)
        if type in ("f16", "bf16"):
            check_float(f"{name}.{type}x2", type, 2, plain, lanes=2)
    check_float("max.f32", "f32", 3, lambda a, b, c, mode: numbers.larger(numbers.larger(a, b), c))


@pytest.mark.parametrize("type", ("f16", "bf16", "f32", "f64"))
def test_signs(type):
    bits = FORMATS[type].bits
    highest = 1 << (bits - 1)
    integer = f"u{bits}"
    check(f"abs.{type} {{0}}, {{1}}", integer, integer, lambda a: a & ~highest)
    check(f"neg.{type} {{0}}, {{1}}", integer, integer, lambda a: a ^ highest)
    if bits > 16:
        joined = lambda a, b: (b & ~highest) | (a & highest)
        check(f"copysign.{type} {{0}}, {{1}}, {{2}}", integer, f"{integer} {integer}", joined)
        check(f"testp.notanumber.{type} {{0}}, {{1}}", "pred", type, isnan)
        check(f"testp.finite.{type} {{0}}, {{1}}", "pred", type, math.isfinite)
        subnormal = lambda a: FORMATS[type].flushed(a) != a and not isnan(a)
        check(f"testp.subnormal.{type} {{0}}, {{1}}", "pred", type, subnormal)


@pytest.mark.parametrize(
    "opcode, function",
    [
        ("rcp.approx.f32", lambda a: 1 / a), ("rsqrt.approx.f32", lambda a: 1 / math.sqrt(a)),
        ("sqrt.approx.f32", math.sqrt), ("ex2.approx.f32", lambda a: 2**a), ("lg2.approx.f32", math.log2), ("sin.approx.f32", math.sin),
        ("cos.approx.f32", math.cos), ("tanh.approx.f32", math.tanh), ("ex2.approx.f16", lambda a: 2**a),
        ("tanh.approx.bf16", math.tanh), ("rsqrt.approx.f64", lambda a: 1 / math.sqrt(a)),
    ],
)  # fmt: skip
def test_approximations(opcode, function):
    format = FORMATS[opcode.split(".")[-1]]
    values = [0.001 + 4.9 * i / 447 for i in range(448)]
    given = [format.encode(format.rounded(value)) for value in values]
    results = run(f"{opcode} {{0}}, {{1}}", [format, format], [given])
    for bits, result in zip(given, results, strict=True):
        value = format.decode(bits)
        tolerance = 2.0 ** -min(format.mantissa, 22)
        assert math.isclose(format.decode(result), function(value), rel_tol=tolerance, abs_tol=1e-6), (
            f"{opcode} of {value}"
        )


def signed(value: int, bits: int) -> int:
    return FORMATS[f"s{bits}"].decode(value & ((1 << bits) - 1))


def truncated_quotient(a: int, b: int) -> int:
    return abs(a) // abs(b) * (-1 if (a < 0) != (b < 0) else 1) if b else -1


def integer_operations(bits: int) -> dict:
    return {
        "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul.lo": lambda a, b: a * b,
        "mul.hi": lambda a, b: a * b >> bits, "min": min, "max": max, "div": truncated_quotient,
        "rem": lambda a, b: a - b * truncated_quotient(a, b) if b else a,
        "mad.lo": lambda a, b, c: a * b + c, "mad.hi": lambda a, b, c: (a * b >> bits) + c,
        "sad": lambda a, b, c: c + abs(a - b),
    }  # fmt: skip


@pytest.mark.parametrize("type", ("u16", "s16", "u32", "s32", "u64", "s64"))
def test_integer_arithmetic(type):
    bits = FORMATS[type].bits
    for name, function in integer_operations(bits).items():
        arity = function.__code__.co_argcount if hasattr(function, "__code__") else 2
        operands = ", ".join(f"{{{i}}}" for i in range(arity + 1))
        check(f"{name}.{type} {operands}", type, " ".join([type] * arity), function)
    if bits < 64:
        wide = f"{type[0]}{2 * bits}"
        check(f"mul.wide.{type} {{0}}, {{1}}, {{2}}", wide, f"{type} {type}", lambda a, b: a * b)
        check(f"mad.wide.{type} {{0}}, {{1}}, {{2}}, {{3}}", wide, f"{type} {type} {wide}", lambda a, b, c: a * b + c)
    if type[0] == "s":
        check(f"neg.{type} {{0}}, {{1}}", type, type, lambda a: -a)
        check(f"abs.{type} {{0}}, {{1}}", type, type, abs)


def test_other_integer_arithmetic():
    s32 = FORMATS["s32"]
    check("add.sat.s32 {0}, {1}, {2}", "s32", "s32 s32", lambda a, b: clamped(a + b, s32))
    check("sub.sat.s32 {0}, {1}, {2}", "s32", "s32 s32", lambda a, b: clamped(a - b, s32))
    check("mad.hi.sat.s32 {0}, {1}, {2}, {3}", "s32", "s32 s32 s32", lambda a, b, c: clamped((a * b >> 32) + c, s32))
    low = lambda a: a & 0xFFFFFF
    check("mul24.lo.u32 {0}, {1}, {2}", "u32", "u32 u32", lambda a, b: low(a) * low(b))
    check("mul24.hi.s32 {0}, {1}, {2}", "s32", "s32 s32", lambda a, b: signed(a << 8, 32) * signed(b << 8, 32) >> 32)
    check("mad24.lo.u32 {0}, {1}, {2}, {3}", "u32", "u32 u32 u32", lambda a, b, c: low(a) * low(b) + c)
    check("add.s16x2 {0}, {1}, {2}", "s16", "s16 s16", lambda a, b: a + b, lanes=2)
    check("max.u16x2 {0}, {1}, {2}", "u16", "u16 u16", max, lanes=2)


@pytest.mark.parametrize("kinds", ["".join(pair) for pair in itertools.product("us", "us")])
def test_dot_products(kinds):
    def part(word, i, bits, kind):
        value = word >> (bits * i) & ((1 << bits) - 1)
        return signed(value, bits) if kind == "s" else value

    a_kind, b_kind = kinds
    types = f"{a_kind}32.{b_kind}32"
    four = lambda a, b, c: c + sum(part(a, i, 8, a_kind) * part(b, i, 8, b_kind) for i in range(4))
    check(f"dp4a.{types} {{0}}, {{1}}, {{2}}, {{3}}", "u32", "u32 u32 u32", four)
    for half, start in (("lo", 0), ("hi", 2)):
        two = lambda a, b, c, at=start: c + sum(part(a, i, 16, a_kind) * part(b, i + at, 8, b_kind) for i in range(2))
        check(f"dp2a.{half}.{types} {{0}}, {{1}}, {{2}}, {{3}}", "u32", "u32 u32 u32", two)


@pytest.mark.parametrize("bits", (32, 64))
def test_carries(bits):
    """Two words as one number."""
    mask = (1 << bits) - 1
    for name, function in (("add", lambda a, b: a + b), ("sub", lambda a, b: a - b)):
        high = f"{name}.cc.u{bits} {{0}}, {{1}}, {{2}}; {name}c.u{bits} {{0}}, {{1}}, {{2}}"
        check(high, f"u{bits}", f"u{bits} u{bits}", lambda a, b, f=function: f(a | a << bits, b | b << bits) >> bits)
    multiply = f"mad.lo.cc.u{bits} {{0}}, {{1}}, {{2}}, {{3}}; madc.hi.u{bits} {{0}}, {{1}}, {{2}}, {{3}}"
    check(multiply, f"u{bits}", f"u{bits} u{bits} u{bits}", lambda a, b, c: (a * b + (c | c << bits)) >> bits & mask)


@pytest.mark.parametrize("bits", (16, 32, 64))
def test_logic_and_shifts(bits):
    word = f"u{bits}"
    for name, function in (("and", lambda a, b: a & b), ("or", lambda a, b: a | b), ("xor", lambda a, b: a ^ b)):
        check(f"{name}.b{bits} {{0}}, {{1}}, {{2}}", word, f"{word} {word}", function)
        check(f"{name}.pred {{0}}, {{1}}, {{2}}", "pred", "pred pred", function)
    check(f"not.b{bits} {{0}}, {{1}}", word, word, lambda a: ~a)
    check(f"cnot.b{bits} {{0}}, {{1}}", word, word, lambda a: a == 0)
    check(f"shl.b{bits} {{0}}, {{1}}, {{2}}", word, f"{word} u32", lambda a, n: a << min(n, bits))
    check(f"shr.u{bits} {{0}}, {{1}}, {{2}}", word, f"{word} u32", lambda a, n: a >> min(n, bits))
    check(f"shr.s{bits} {{0}}, {{1}}, {{2}}", f"s{bits}", f"s{bits} u32", lambda a, n: a >> min(n, bits))
    check(f"selp.b{bits} {{0}}, {{1}}, {{2}}, {{3}}", word, f"{word} {word} pred", lambda a, b, p: a if p else b)
    for type in ("s32", "f32"):
        chosen = lambda a, b, c: a if c >= 0 else b
        check(f"slct.u{bits}.{type} {{0}}, {{1}}, {{2}}, {{3}}", word, f"{word} {word} {type}", chosen)
