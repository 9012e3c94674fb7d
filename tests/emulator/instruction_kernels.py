"""Runs one instruction on many values: a kernel of a few lines of PTX around it."""

from __future__ import annotations

import random
from math import isnan, nan

import gpu
import numpy as np
from number_formats import FORMATS, Format
from pylayers.emulator import launch

COUNT = 448  # values of each argument, a multiple of 32

HEADER = """
.version 8.8
.target sm_100a
.address_size 64
.visible .entry test({parameters})
{{
.reg .pred %p<9>;
.reg .b16 %h<9>;
.reg .b32 %r<9>;
.reg .b64 %d<9>;
.reg .b32 %index, %block;
.reg .b64 %at;
.reg .b32 %word;
mov.u32 %index, %tid.x;
mov.u32 %block, %ctaid.x;
mad.lo.u32 %index, %block, 32, %index;
"""


def storage(format: Format) -> int:
    """Bits in memory and in the register: predicates are words there, bytes lie in registers of 16 bits."""
    return 32 if format.name == "pred" else max(format.bits, 16)


def register(format: Format, number: int) -> str:
    return f"%p{number}" if format.name == "pred" else f"%{ {16: 'h', 32: 'r', 64: 'd'}[storage(format)] }{number}"


def _transfers(formats: list[Format], lanes: int) -> tuple[str, str]:
    """PTX that fills the registers of the arguments, and that writes the result. Number 0 is the result."""
    before, after = "", ""
    for number, format in enumerate(formats):
        bits = storage(format) * lanes
        held = register(Format("b", bits) if lanes > 1 else format, number)
        address = f"ld.param.u64 %at, [p{number}];\nmad.wide.u32 %at, %index, {bits // 8}, %at;\n"
        if number == 0:
            value = "%word" if format.name == "pred" else held
            after = (f"selp.u32 %word, 1, 0, {held};\n" if format.name == "pred" else "") + address
            after += f"st.global.b{bits} [%at], {value};\n"
        elif format.name == "pred":
            before += f"{address}ld.global.b32 %word, [%at];\nsetp.ne.u32 {held}, %word, 0;\n"
        else:
            before += f"{address}ld.global.b{bits} {held}, [%at];\n"
    return before, after


def run(body: str, formats: list[Format], arguments: list[list[int]], lanes: int = 1) -> list[int]:
    """The bits of the result for each row of arguments' bits, the same on a GPU if there is one. `lanes`: how many numbers there are in a register.

    In `body` {0} is the register of the result, {1} that of the first argument.
    """
    before, after = _transfers(formats, lanes)
    names = [register(Format("b", storage(one) * lanes) if lanes > 1 else one, i) for i, one in enumerate(formats)]
    parameters = ", ".join(f".param .u64 p{i}" for i in range(len(formats)))
    text = HEADER.format(parameters=parameters) + before + body.format(*names) + ";\n" + after + "ret;\n}\n"
    arrays = [np.zeros(len(arguments[0]), f"u{storage(formats[0]) // 8}")]
    for format, bits in zip(formats[1:], arguments, strict=True):
        arrays.append(np.array(bits, f"u{storage(format) // 8}"))
    blocks, before_launch = len(arguments[0]) // lanes // 32, [array.copy() for array in arrays]
    launch.Module(text).kernel("test").launch(blocks, 32, arrays)
    if gpu.at_hand():
        gpu.compare(body, text, formats[0], blocks, before_launch, arrays[0])
    return [int(bits) for bits in arrays[0]]


def _interesting(format: Format, rng: random.Random) -> list[int]:
    if format.name == "pred":
        return [0, 1]
    highest = 1 << (format.bits - 1)
    if not format.floating:
        return [0, 1, 2, 3, 31, 32, highest, highest - 1, highest + 1, 2 * highest - 1, 2 * highest - 2, 0x55 % highest]
    one, unit = format.encode(1.0), 1 << format.mantissa
    positive = [0, 1, unit - 1, unit, one, one + 1, one - 1, one + unit, one - unit, one + unit // 2]
    positive += [
        3 * unit + unit // 2,
        format.encode(np.inf) - 1,
        format.encode(np.inf),
        format.encode(np.nan) % highest,
    ]
    return positive + [highest | bits for bits in positive]


def _random(format: Format, rng: random.Random) -> int:
    if format.name == "pred" or rng.random() < 0.3 or not format.floating:
        return rng.getrandbits(format.bits) >> (rng.randrange(format.bits) if not format.floating else 0)
    half = 1 << (format.mantissa - 1)
    fraction = rng.choice([0, 1, half, 2 * half - 1, rng.getrandbits(format.mantissa)])
    exponent = format.bias + rng.randint(-min(format.bias, 12), min(format.bias, 12))
    return (rng.getrandbits(1) << (format.bits - 1)) | exponent << format.mantissa | fraction


def samples(formats: list[Format], seed: str, count: int = COUNT) -> list[list[int]]:
    """`count` bits for each argument: every pair of interesting values for the first two first, as far as they fit."""
    rng = random.Random(seed)
    pools = [_interesting(format, rng) for format in formats]
    rows = [[rng.choice(pool) for pool in pools] for _ in range(count // 2)]
    if len(formats) == 1:
        rows = [[bits] for bits in pools[0]]
    elif len(pools[0]) * len(pools[1]) <= count // 2:
        rows = [[a, b, *map(rng.choice, pools[2:])] for a in pools[0] for b in pools[1]]
    rows += [[_random(format, rng) for format in formats] for _ in range(count - len(rows))]
    return [list(column) for column in zip(*rows, strict=True)]


def formats_of(names: str) -> list[Format]:
    return [FORMATS[name] for name in names.split()]


def check(body, result, arguments, function, lanes=1, given=None):
    """`function` takes the arguments' values and gives the bits of the result."""
    formats = formats_of(f"{result} {arguments}")
    bits = given or samples(formats[1:], body)
    outcome = run(body, formats, bits, lanes)
    width = max(formats[0].bits, 16) if formats[0].bits > 1 else 1
    for row, got in zip(zip(*bits, strict=True), outcome, strict=True):
        values = [format.decode(one) for format, one in zip(formats[1:], row, strict=True)]
        expected = function(*values) & ((1 << width) - 1)
        if result == "f64" and isnan(formats[0].decode(got)):
            got = formats[0].encode(nan)  # the NaNs of double are those of the host
        assert got == expected, f"{body} of {values} gives {got:#x}, should be {expected:#x}"
