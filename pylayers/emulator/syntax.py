"""What all of PTX is written in: comments, lists, numbers, types."""

from __future__ import annotations

import re
import struct


class PtxError(ValueError):
    """PTX that cannot be run: broken, of an unknown version, or with an instruction that the emulator does not know."""


BYTES = {  # of a value of each type
    "pred": 1, "b8": 1, "s8": 1, "u8": 1, "e4m3": 1, "e5m2": 1,
    "b16": 2, "s16": 2, "u16": 2, "f16": 2, "bf16": 2, "e4m3x2": 2, "e5m2x2": 2,
    "b32": 4, "s32": 4, "u32": 4, "f32": 4, "f16x2": 4, "bf16x2": 4, "tf32": 4, "u16x2": 4, "s16x2": 4,
    "b64": 8, "s64": 8, "u64": 8, "f64": 8, "f32x2": 8, "texref": 8, "samplerref": 8, "surfref": 8,
    "b128": 16,
}  # fmt: skip

IDENTIFIER = r"[A-Za-z_$%][\w$]*"

_COMMENT_OR_STRING = re.compile(r'("[^"\n]*")|//[^\n]*|/\*.*?\*/', re.S)
_LIST_ITEM = re.compile(r"[^,\[{(]*(?:(?:\[[^\]]*\]|\{[^}]*\}|\([^)]*\))[^,\[{(]*)*")
_INTEGER = re.compile(r"([-+~]?)\s*(?:0[xX]([0-9a-fA-F]{1,40})|0[bB]([01]{1,80})|(0[0-7]{0,40})|([1-9]\d{0,40}))U?")
_FLOAT_BITS = re.compile(r"(-?)0([fF])([0-9a-fA-F]{8})|(-?)0([dD])([0-9a-fA-F]{16})")
_DECIMAL = re.compile(r"[-+]?(?:\d+\.\d*|\.\d+)(?:[eE][-+]?\d+)?|[-+]?\d+[eE][-+]?\d+")
_BASES = (16, 2, 8, 10)


def without_comments(text: str) -> str:
    return _COMMENT_OR_STRING.sub(lambda found: found[1] or " ", text)


def shorten(text: str, length: int = 100) -> str:
    """One line of it, for messages."""
    line = " ".join(text[: 4 * length].split())
    return line if len(line) <= length else line[:length] + "..."


def split_list(text: str) -> list[str]:
    """The items between commas, those inside brackets not counted."""
    if "[" not in text and "{" not in text and "(" not in text:
        items = [item.strip() for item in text.split(",")]
    else:
        items, start = [], 0
        while True:
            item = _LIST_ITEM.match(text, start)
            items.append(item[0].strip())
            if item.end() == len(text):
                break
            if text[item.end()] != ",":
                raise PtxError(f"a bracket is not closed: {shorten(text)}")
            start = item.end() + 1
    if not all(items):
        raise PtxError(f"an empty item in a list: {shorten(text)}")
    return items


def integer(text: str) -> int | None:
    """The value of an integer literal; None if it is none."""
    found = _INTEGER.fullmatch(text)
    if not found:
        return None
    value = next(int(digits, base) for digits, base in zip(found.groups()[1:], _BASES, strict=True) if digits)
    return {"-": -value, "~": ~value}.get(found[1], value)


def float_bits(text: str, type: str) -> int | None:
    """The bits of a floating-point literal as an instruction of this type takes it; None if it is none."""
    found = _FLOAT_BITS.fullmatch(text)
    if found:
        single = found[2] is not None
        width, digits = (4, found[3]) if single else (8, found[6])
        bits = int(digits, 16) ^ (1 << 8 * width - 1 if found[1] or found[4] else 0)
        other = type == "f64" if single else type == "f32"
        return _convert(bits, width) if other else bits
    if _DECIMAL.fullmatch(text):
        bits = struct.unpack("<Q", struct.pack("<d", float(text)))[0]
        return _convert(bits, 8) if BYTES.get(type) == 4 else bits
    return None


def _convert(bits: int, width: int) -> int:
    """From single to double precision (width 4) or back (width 8)."""
    if width == 4:
        return struct.unpack("<Q", struct.pack("<d", struct.unpack("<f", struct.pack("<I", bits))[0]))[0]
    value = struct.unpack("<d", struct.pack("<Q", bits))[0]
    try:
        return struct.unpack("<I", struct.pack("<f", value))[0]
    except OverflowError:  # beyond the largest single
        return 0xFF800000 if value < 0 else 0x7F800000


def literal(text: str, type: str) -> int | None:
    """The 64 bits of a literal operand of an instruction of this type; None if it is no literal."""
    value = integer(text)
    if value is None:
        value = float_bits(text, type)
        return value
    return int(value != 0) if type == "pred" else value & 0xFFFFFFFFFFFFFFFF
