"""Instructions on bits, moves of parts of registers, and comparisons."""

import itertools
import random
from math import isnan

import pytest
from instruction_kernels import check, formats_of, run, samples
from number_formats import FORMATS


def bits_of(value: int, start: int, count: int) -> int:
    return value >> start & ((1 << count) - 1)


def columns(*ranges, count=448):
    """Random values for each argument, from a range or of so many bits."""
    rng = random.Random(0)
    draw = lambda one: rng.getrandbits(one) if isinstance(one, int) else rng.choice(one)
    return [[draw(one) for _ in range(count)] for one in ranges]


@pytest.mark.parametrize("bits", (32, 64))
def test_fields(bits):
    def extracted(a, start, count):  # PTX's definition, bit by bit
        top = min(start + count - 1, bits - 1)
        sign = a >> top & 1 if count else 0
        return sum((a >> (start + i) & 1 if i < count and start + i < bits else sign) << i for i in range(bits))

    def inserted(a, b, start, count):
        for i in range(min(count, max(bits - start, 0))):
            b = b & ~(1 << (start + i)) | (a >> i & 1) << (start + i)
        return b

    word, places = f"u{bits}", [*range(bits + 8), 255]
    given = columns(bits, places, places)
    unsigned = lambda a, start, count: bits_of(a, start, count) if start < bits else 0
    check(f"bfe.u{bits} {{0}}, {{1}}, {{2}}, {{3}}", word, f"{word} u32 u32", unsigned, given=given)
    check(f"bfe.s{bits} {{0}}, {{1}}, {{2}}, {{3}}", word, f"{word} u32 u32", extracted, given=given)
    given = columns(bits, bits, places, places)
    check(f"bfi.b{bits} {{0}}, {{1}}, {{2}}, {{3}}, {{4}}", word, f"{word} {word} u32 u32", inserted, given=given)
    check(f"brev.b{bits} {{0}}, {{1}}", word, word, lambda a: int(f"{a:0{bits}b}"[::-1], 2))
    check(f"clz.b{bits} {{0}}, {{1}}", "u32", word, lambda a: bits - a.bit_length())
    check(f"popc.b{bits} {{0}}, {{1}}", "u32", word, lambda a: a.bit_count())
    check(f"bfind.u{bits} {{0}}, {{1}}", "u32", word, lambda a: a.bit_length() - 1)
    check(f"bfind.s{bits} {{0}}, {{1}}", "u32", f"s{bits}", lambda a: (a if a >= 0 else ~a).bit_length() - 1)
    shift = lambda a: bits - a.bit_length() if a else -1
    check(f"bfind.shiftamt.u{bits} {{0}}, {{1}}", "u32", word, shift)


def test_bits_of_words():
    amounts = columns(32, 32, range(70))
    joined = lambda a, b: b << 32 | a
    for name, limit in (("wrap", lambda n: n & 31), ("clamp", lambda n: min(n, 32))):
        left = lambda a, b, n, limit=limit: joined(a, b) << limit(n) >> 32
        right = lambda a, b, n, limit=limit: joined(a, b) >> limit(n)
        check(f"shf.l.{name}.b32 {{0}}, {{1}}, {{2}}, {{3}}", "u32", "u32 u32 u32", left, given=amounts)
        check(f"shf.r.{name}.b32 {{0}}, {{1}}, {{2}}, {{3}}", "u32", "u32 u32 u32", right, given=amounts)
    for table in (0x00, 0xE8, 0x96, 0x1B, 0xCA):
        looked_up = lambda a, b, c, t=table: sum(
            (t >> (4 * (a >> i & 1) + 2 * (b >> i & 1) + (c >> i & 1)) & 1) << i for i in range(32)
        )
        check(f"lop3.b32 {{0}}, {{1}}, {{2}}, {{3}}, {table:#x}", "u32", "u32 u32 u32", looked_up)
    places = columns(range(40), range(40))
    mask = lambda start, count: ((1 << count) - 1) << start
    clamped = lambda a, n: mask(min(a, 32), min(n, 32))
    check("bmsk.clamp.b32 {0}, {1}, {2}", "u32", "u32 u32", clamped, given=places)
    check("bmsk.wrap.b32 {0}, {1}, {2}", "u32", "u32 u32", lambda a, n: mask(a & 31, n & 31), given=places)
    low = lambda a, n: bits_of(a, 0, n)
    check("szext.clamp.u32 {0}, {1}, {2}", "u32", "u32 u32", low, given=columns(32, range(40)))
    check("fns.b32 {0}, {1}, {2}, {3}", "u32", "u32 u32 s32", nth_set, given=columns(32, range(32), range(5)))


def nth_set(mask, base, n):
    if n == 0:
        return base if mask >> base & 1 else -1
    found = [i for i in range(base, 32) if mask >> i & 1]
    return found[n - 1] if len(found) >= n else -1


def test_permutations():
    def permuted(choose):
        return lambda a, b, c: sum(choose(b << 32 | a, i, c) << (8 * i) for i in range(4))

    def generic(both, i, c):
        choice = c >> (4 * i) & 15
        byte = bits_of(both, 8 * (choice & 7), 8)
        return byte if choice < 8 else 255 * (byte >> 7)

    check("prmt.b32 {0}, {1}, {2}, {3}", "u32", "u32 u32 u32", permuted(generic))
    tables = {  # the bytes of the result, from the lowest, for each low two bits of c
        "f4e": ("0123", "1234", "2345", "3456"), "b4e": ("0765", "1076", "2107", "3210"),
        "rc8": ("0000", "1111", "2222", "3333"), "ecl": ("0123", "1123", "2223", "3333"),
        "ecr": ("0000", "0111", "0122", "0123"), "rc16": ("0101", "2323", "0101", "2323"),
    }  # fmt: skip
    for mode, table in tables.items():
        choose = lambda both, i, c, table=table: bits_of(both, 8 * int(table[c & 3][i]), 8)
        check(f"prmt.b32.{mode} {{0}}, {{1}}, {{2}}, {{3}}", "u32", "u32 u32 u32", permuted(choose))


def test_parts_of_registers():
    check("mov.b64 {0}, {{{1}, {2}}}", "u64", "u32 u32", lambda a, b: b << 32 | a)
    check("mov.b32 {0}, {{{1}, {2}}}", "u32", "u16 u16", lambda a, b: b << 16 | a)
    joined = lambda a, b, c, d: d << 48 | c << 32 | b << 16 | a
    check("mov.b64 {0}, {{{1}, {2}, {3}, {4}}}", "u64", "u16 u16 u16 u16", joined)
    check("{{.reg .b32 %o; mov.b64 {{%o, {0}}}, {1}; }}", "u32", "u64", lambda a: a >> 32)
    check("mov.b64 {{{0}, _}}, {1}", "u32", "u64", lambda a: a)
    check("mov.b32 {{_, {0}}}, {1}", "u16", "u32", lambda a: a >> 16)
    check("mov.b32 {{{0}, {0}}}, {1}", "u16", "u32", lambda a: a >> 16)
    check("mov.f32 {0}, {1}", "u32", "u32", lambda a: a)
    check("mov.b32 {0}, 0f3F800000; add.s32 {0}, {0}, {1}", "u32", "u32", lambda a: a + 0x3F800000)
    check("mov.pred {0}, {1}", "pred", "pred", lambda a: a)


ORDERS = {"lt": lambda a, b: a < b, "le": lambda a, b: a <= b, "gt": lambda a, b: a > b, "ge": lambda a, b: a >= b}
EQUALITIES = {"eq": lambda a, b: a == b, "ne": lambda a, b: a != b}
NAMES_OF_UNSIGNED = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}


def comparisons(type):
    if not FORMATS[type].floating:
        made = {**ORDERS, **EQUALITIES}
        return {**made, **{name: ORDERS[same] for name, same in NAMES_OF_UNSIGNED.items()}} if type[0] == "u" else made
    unordered = lambda a, b: isnan(a) or isnan(b)
    made = {"num": lambda a, b: not unordered(a, b), "nan": unordered}
    for name, holds in {**ORDERS, **EQUALITIES}.items():
        made[name] = lambda a, b, holds=holds: not unordered(a, b) and holds(a, b)
        made[f"{name}u"] = lambda a, b, holds=holds: unordered(a, b) or holds(a, b)
    return made


@pytest.mark.parametrize("type", ("u16", "s16", "u32", "s32", "u64", "s64", "f16", "bf16", "f32", "f64"))
def test_comparisons(type):
    pair = f"{type} {type}"
    for name, holds in comparisons(type).items():
        check(f"setp.{name}.{type} {{0}}, {{1}}, {{2}}", "pred", pair, holds)
        check(f"set.{name}.u32.{type} {{0}}, {{1}}, {{2}}", "u32", pair, lambda a, b, h=holds: -h(a, b))
    holds = comparisons(type)["lt"]
    joints = {"and": lambda a, b: a & b, "or": lambda a, b: a | b, "xor": lambda a, b: a ^ b}
    for joint, join in joints.items():
        upright = lambda a, b, c, join=join: join(holds(a, b), c)
        inverted = lambda a, b, c, join=join: join(not holds(a, b), c)
        check(f"setp.lt.{joint}.{type} {{0}}|%p8, {{1}}, {{2}}, {{3}}", "pred", f"{pair} pred", upright)
        check(f"setp.lt.{joint}.{type} %p8|{{0}}, {{1}}, {{2}}, {{3}}", "pred", f"{pair} pred", inverted)
        negated = lambda a, b, c, upright=upright: upright(a, b, 1 - c)
        check(f"setp.lt.{joint}.{type} {{0}}, {{1}}, {{2}}, !{{3}}", "pred", f"{pair} pred", negated)
    check(f"setp.lt.{type} _|{{0}}, {{1}}, {{2}}", "pred", pair, lambda a, b: not holds(a, b))
    check(f"set.lt.f32.{type} {{0}}, {{1}}, {{2}}", "u32", pair, lambda a, b: 0x3F800000 * holds(a, b))


def test_flushing_comparisons():
    flushed = FORMATS["f32"].flushed
    check("setp.gt.ftz.f32 {0}, {1}, {2}", "pred", "f32 f32", lambda a, b: flushed(a) > flushed(b))
    flushed16 = FORMATS["f16"].flushed
    check("setp.gt.ftz.f16 {0}, {1}, {2}", "pred", "f16 f16", lambda a, b: flushed16(a) > flushed16(b))


@pytest.mark.parametrize("type, one", (("f16", 0x3C00), ("bf16", 0x3F80)))
def test_comparisons_of_pairs(type, one):
    given = samples(formats_of(f"{type} {type}"), "pairs")
    a, b = ([FORMATS[type].decode(bits) for bits in column] for column in given)
    lower, upper = ([x < y for x, y in itertools.islice(zip(a, b, strict=True), start, None, 2)] for start in (0, 1))
    ones = run(f"set.lt.{type}x2.{type}x2 {{0}}, {{1}}, {{2}}", formats_of("u16 u16 u16"), given, lanes=2)
    assert ones == [one * (x < y) for x, y in zip(a, b, strict=True)]
    masks = run(f"set.lt.u32.{type}x2 {{0}}, {{1}}, {{2}}", formats_of("u16 u16 u16"), given, lanes=2)
    assert masks == [0xFFFF * (x < y) for x, y in zip(a, b, strict=True)]
    both = f"setp.lt.{type}x2 %p1|%p2, {{1}}, {{2}}; selp.b32 {{0}}, 1, 0, %p1; @%p2 add.u32 {{0}}, {{0}}, 65536"
    found = run(both, formats_of("u16 u16 u16"), given, lanes=2)
    assert found == [int(flag) for pair in zip(lower, upper, strict=True) for flag in pair]
