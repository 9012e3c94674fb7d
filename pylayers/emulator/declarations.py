"""Declarations: parameters, variables with their initial values, registers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from .syntax import BYTES, IDENTIFIER, PtxError, float_bits, integer, shorten, split_list

SPACES = ("shared", "global", "const", "local", "param")
MOST_REGISTERS = 1_000_000  # of one declaration; no compiler comes near
MOST_BYTES = 1 << 31  # of one variable

_HEAD = re.compile(
    r"(?P<linkage>(?:\.(?:visible|extern|weak|common)\s+)*)\.(?P<space>reg|" + "|".join(SPACES) + r")\b\s*"
    r"(?:\.attribute\s*\([^)]*\)\s*)?(?:\.align\s+(?P<align>\d{1,9})\s*)?"
    r"(?:\.v(?P<vector>[248])\s*)?\.(?P<type>\w+)\s*"
    r"(?:\.ptr\b\s*(?:\.(?:" + "|".join(SPACES) + r")\s*)?(?:\.align\s+\d+\s*)?)?"
)
_NAME = re.compile(rf"({IDENTIFIER})\s*(?:<\s*(\d{{1,20}})\s*>)?\s*((?:\[\s*\w*\s*\]\s*)*)(?:=\s*(.*))?", re.S)
_REFERENCE = re.compile(rf"(?:generic\s*\(\s*({IDENTIFIER})\s*\)|({IDENTIFIER}))\s*(?:([+-])\s*(\w+))?")


class Parameter(NamedTuple):
    name: str
    size: int
    align: int
    space: str = "param"  # or "reg", as a device function may have


class Reference(NamedTuple):
    """The address of `symbol`, plus `addend`, is to be written at `offset` of a variable."""

    offset: int
    symbol: str
    addend: int


@dataclass
class Variable:
    space: str
    align: int
    type: str
    name: str
    count: int  # of elements; 0 for an array of unknown length
    size: int  # bytes
    initializer: bytes | None = None  # of `size` bytes, with zeros where the references belong
    references: tuple[Reference, ...] = ()
    extern: bool = False


class Registers(NamedTuple):
    names: list[str]
    size: int


def declare(text: str) -> Registers | list[Variable]:
    """The declaration without its semicolon: `.reg .b32 %r<8>`, `.shared .align 4 .b8 a[8], b[4]`."""
    head = _HEAD.match(text)
    if not head or head["type"] not in BYTES:
        raise PtxError(f"not a declaration: {shorten(text)}")
    names = [_name(item, text) for item in split_nested(text[head.end() :])]
    if head["space"] != "reg":
        return [_variable(head, name) for name in names]
    if head["vector"]:
        raise PtxError(f"registers that are vectors are not supported: {shorten(text)}")
    return Registers([register for name in names for register in _numbered(name)], BYTES[head["type"]])


def parameters(text: str) -> list[Parameter]:
    """What stands between the parentheses of a function's head."""
    result = []
    for item in split_list(text) if text.strip() else []:
        head = _HEAD.match(item)
        if not head or head["space"] not in ("param", "reg") or head["type"] not in BYTES:
            raise PtxError(f"not a parameter: {shorten(item)}")
        variable = _variable(head, _name(item[head.end() :], item))
        result.append(Parameter(variable.name, variable.size, variable.align, head["space"]))
    return result


def _name(item: str, text: str) -> re.Match:
    name = _NAME.fullmatch(item.strip())
    if not name:
        raise PtxError(f"not a declaration: {shorten(text)}")
    return name


def _numbered(name: re.Match) -> list[str]:
    if name[2] is None:
        return [name[1]]
    if int(name[2]) > MOST_REGISTERS:
        raise PtxError(f"too many registers: {name[0]}")
    return [f"{name[1]}{i}" for i in range(int(name[2]))]


def _variable(head: re.Match, name: re.Match) -> Variable:
    element = BYTES[head["type"]] * int(head["vector"] or 1)
    align = int(head["align"] or element)
    if align & (align - 1) or not align:
        raise PtxError(f"alignment {align} of {name[1]} is no power of two")
    lengths = [_length(length, name[0]) for length in re.findall(r"\[\s*(\w*)\s*\]", name[3])]
    count = 1
    for length in lengths:
        count *= length
    size, value, references = element * count, None, []
    if size > MOST_BYTES:
        raise PtxError(f"a variable of {size} bytes is not supported: {name[1]}")
    if name[4] is not None:
        lengths += [int(head["vector"])] if head["vector"] else []
        value = bytearray(size)
        _fill(value, references, head["type"], lengths, 0, name[4].strip(), len(lengths))
    extern = ".extern" in head["linkage"]
    return Variable(head["space"], align, head["type"], name[1], count, size,
                    None if value is None else bytes(value), tuple(references), extern)  # fmt: skip


def _length(text: str, declaration: str) -> int:
    length = integer(text) if text else 0
    if length is None or length < 0:
        raise PtxError(f"length of an array that is no number: {shorten(declaration)}")
    return length


def _fill(value: bytearray, references: list, type: str, lengths: list[int], at: int, text: str, depth: int) -> None:
    """Writes the initial value `text` of an array of `lengths` to `value` from byte `at` on."""
    if not text.startswith("{"):
        return _fill_one(value, references, type, at, text)
    if not text.endswith("}") or not depth:
        raise PtxError(f"not an initial value: {shorten(text)}")
    inner, step = text[1:-1].strip(), BYTES[type]
    for length in lengths[len(lengths) - depth + 1 :]:
        step *= length
    items = split_nested(inner) if inner else []
    for i, item in enumerate(items):
        whole = item.startswith("{") or depth == 1
        _fill(value, references, type, lengths, at + i * (step if whole else BYTES[type]), item, depth - 1)


def _fill_one(value: bytearray, references: list, type: str, at: int, text: str) -> None:
    size = BYTES[type]
    if at + size > len(value):
        raise PtxError(f"more initial values than elements: {shorten(text)}")
    bits = integer(text)
    if bits is None:
        bits = float_bits(text, type)
    if bits is not None:
        value[at : at + size] = (bits & ((1 << 8 * size) - 1)).to_bytes(size, "little")
        return
    found = _REFERENCE.fullmatch(text)
    addend = integer(found[4]) if found and found[4] else 0
    if not found or size != 8 or addend is None:
        raise PtxError(f"not an initial value: {shorten(text)}")
    references.append(Reference(at, found[1] or found[2], -addend if found[3] == "-" else addend))


def split_nested(text: str) -> list[str]:
    """As split_list, where braces stand inside braces."""
    items, depth, start = [], 0, 0
    for found in re.finditer(r"[{},]", text):
        depth += {"{": 1, "}": -1}.get(found[0], 0)
        if found[0] == "," and not depth:
            items.append(text[start : found.start()].strip())
            start = found.end()
    items.append(text[start:].strip())
    if depth or not all(items):
        raise PtxError(f"not a list: {shorten(text)}")
    return items
