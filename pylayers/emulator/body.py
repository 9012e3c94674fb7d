"""The body of a function -> its statements, names as they are written."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from .declarations import Registers, Variable, declare
from .syntax import IDENTIFIER, PtxError, shorten, split_list, without_comments


class Location(NamedTuple):
    """.loc: where the statements that follow come from."""

    file: int
    line: int
    column: int
    inlined_at: tuple[int, int, int] | None = None


class Open(NamedTuple):
    """A brace that opens a scope, with the labels that stand directly in it."""

    labels: list[str]


class Close(NamedTuple):
    pass


class Label(NamedTuple):
    name: str


class Targets(NamedTuple):
    """.branchtargets: what the label before it stands for."""

    labels: list[str]


class Instruction(NamedTuple):
    opcode: str
    operands: list[str]
    guard: str | None
    negated: bool  # @!guard
    text: str


Statement = Location | Open | Close | Label | Targets | Instruction | Registers | list[Variable]

_STATEMENT = re.compile(
    rf"\s*(?:(?P<brace>[{{}}])|(?P<location>\.loc\s[^\n]*)|(?P<file>\.file\s[^\n]*)|(?P<label>{IDENTIFIER})\s*:(?!:)"
    r'|(?P<text>[^;{}"]*(?:(?:"[^"\n]*"|\{[^;{}]*\})[^;{}"]*)*);)'
)
_INSTRUCTION = re.compile(rf"(?:@\s*(!?)\s*({IDENTIFIER})\s+)?([a-z][\w.:]*)\s*(.*)")
_LOCATION = re.compile(r"\.loc\s+(\d{1,9})\s+(\d{1,9})(?:\s+(\d{1,9}))?")
_INLINED_AT = re.compile(r"inlined_at\s+(\d{1,9})\s+(\d{1,9})(?:\s+(\d{1,9}))?")
_IGNORED = (".pragma", ".callprototype", ".calltargets", ".attribute", ".alias")


@lru_cache(maxsize=64)
def parse_body(text: str) -> list[Statement]:
    """All of it, as a scope: the first statement is an Open, the last one a Close."""
    text = without_comments(text)
    scopes = [Open([])]
    statements: list[Statement] = [scopes[0]]
    at, end = 0, len(text.rstrip())
    while at < end:
        found = _STATEMENT.match(text, at)
        if not found:
            raise PtxError(f"not a statement: {shorten(text[at : at + 200])}")
        at = found.end()
        kind = found.lastgroup
        if kind == "text":
            statement = _statement(found["text"].strip())
        elif kind == "location":
            statement = _location(found["location"])
        elif kind == "label":
            scopes[-1].labels.append(found["label"])
            statement = Label(found["label"])
        else:
            statement = _brace(found["brace"], scopes)
        if statement is not None:
            statements.append(statement)
    if len(scopes) != 1:
        raise PtxError("braces that do not match")
    return [*statements, Close()]


def _brace(brace: str | None, scopes: list[Open]) -> Open | Close | None:
    if brace == "{":
        scopes.append(Open([]))
        return scopes[-1]
    if brace == "}":
        scopes.pop()
        if not scopes:
            raise PtxError("braces that do not match")
        return Close()
    return None  # .file


def _statement(text: str) -> Statement | None:
    if not text or text.startswith(_IGNORED):
        return None
    if text.startswith(".branchtargets"):
        return Targets(split_list(text[len(".branchtargets") :]))
    if text.startswith("."):
        return declare(text)
    text = " ".join(text.split())
    found = _INSTRUCTION.fullmatch(text)
    if not found:
        raise PtxError(f"not an instruction: {shorten(text)}")
    operands = split_list(found[4]) if found[4] else []
    return Instruction(found[3], operands, found[2], found[1] == "!", text)


def _location(text: str) -> Location:
    found, inlined = _LOCATION.match(text), _INLINED_AT.search(text)
    if not found:
        raise PtxError(f"not a location: {shorten(text)}")
    file, line, column = (int(number or 0) for number in found.groups())
    outer = tuple(int(number or 0) for number in inlined.groups()) if inlined else None
    return Location(file, line, column, outer)
