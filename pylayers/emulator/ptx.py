"""PTX text -> a Module of functions and variables.

Bodies of functions are only looked through for their ends here; body.py reads those that are used.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from .declarations import Parameter, Reference, Variable, declare, parameters
from .syntax import IDENTIFIER, PtxError, shorten, without_comments

__all__ = ["Function", "Module", "Parameter", "PtxError", "Reference", "Variable", "parse"]

OLDEST, NEWEST = (6, 0), (9, 3)  # versions of the PTX language

_BLANK = re.compile(r"(?:\s+|//[^\n]*|/\*.*?\*/)*", re.S)
_BRACE = re.compile(r"[{}]|//[^\n]*|/\*.*?\*/|\"[^\"\n]*\"", re.S)
_BRACE_OR_END = re.compile(r"[{};]|//[^\n]*|/\*.*?\*/|\"[^\"\n]*\"", re.S)
_END = re.compile(r"[{;]|//[^\n]*|/\*.*?\*/|\"[^\"\n]*\"", re.S)
_VERSION = re.compile(r"\.version\s+(\d{1,9})\.(\d{1,9})")
_TARGET = re.compile(r"\.target\s+(\w+)(?:\s*,\s*\w+)*")
_ADDRESS_SIZE = re.compile(r"\.address_size\s+(\d{1,9})")
_FILE = re.compile(r"\.file\s+(\d{1,9})\s+\"([^\"\n]*)\"[^\n]*")
_LOCATION = re.compile(r"\.loc\s[^\n]*")
_SECTION = re.compile(r"\.section\b[^{]*")
_FUNCTION = re.compile(r"(?:\.(?:visible|weak|extern|common)\s+)*\.(entry|func)\b")
_IGNORED = re.compile(r"\.(?:pragma|alias)\b")
_FUNCTION_HEAD = re.compile(rf"\s*(?:\(([^)]*)\))?\s*({IDENTIFIER})\s*(?:\(([^)]*)\))?(.*)", re.S)
_DIRECTIVE = re.compile(r"\.(\w+)([\s\d,]*)")


@dataclass
class Function:
    kind: str  # "entry" or "func"
    name: str
    returns: list[Parameter]
    parameters: list[Parameter]
    directives: dict[str, tuple[int, ...]]  # {"maxntid": (256, 1, 1), "explicitcluster": ()}
    body: str | None = None  # what stands between its braces; None if it is declared only


@dataclass
class Module:
    version: tuple[int, int] = (0, 0)
    target: str = ""  # "sm_80"
    functions: dict[str, Function] = field(default_factory=dict)
    variables: list[Variable] = field(default_factory=list)
    files: dict[int, str] = field(default_factory=dict)  # that .loc speaks of

    @property
    def entries(self) -> list[str]:
        return [name for name, function in self.functions.items() if function.kind == "entry"]


def parse(text: str) -> Module:
    """PtxError if the text is not PTX, cut off, or of a version that is not known."""
    scanner = _Scanner(text)
    scanner.run()
    return scanner.module


class _Scanner:
    def __init__(self, text: str):
        self.text, self.at, self.module = text, 0, Module()

    def run(self) -> None:
        self.skip_blank()
        self.version()
        self.skip_blank()
        while self.at < len(self.text):
            self.statement()
            self.skip_blank()
        if not self.module.target:
            raise PtxError("PTX without .target, so what it is for is not known")

    def skip_blank(self) -> None:
        self.at = _BLANK.match(self.text, self.at).end()

    def take(self, pattern: re.Pattern) -> re.Match | None:
        found = pattern.match(self.text, self.at)
        if found:
            self.at = found.end()
        return found

    def version(self) -> None:
        found = self.take(_VERSION)
        if not found:
            raise PtxError("PTX begins with .version and a number, and this text does not")
        version = self.module.version = int(found[1]), int(found[2])
        if not OLDEST <= version <= NEWEST:
            known = " to ".join("{}.{}".format(*end) for end in (OLDEST, NEWEST))
            raise PtxError(f"PTX of version {version[0]}.{version[1]} is not known, {known} is")

    def statement(self) -> None:
        module = self.module
        if found := self.take(_FUNCTION):
            self.function(found[1])
        elif self.take(_LOCATION):
            pass
        elif found := self.take(_FILE):
            module.files[int(found[1])] = found[2]
        elif found := self.take(_TARGET):
            module.target = found[1]
        elif found := self.take(_ADDRESS_SIZE):
            if found[1] != "64":
                raise PtxError(f"addresses of {found[1]} bits are not supported, 64 are")
        elif self.take(_SECTION):
            self.block("section")
        elif self.take(_IGNORED):
            self.up_to_semicolon()
        else:
            self.declaration()

    def declaration(self) -> None:
        start = self.at
        declared = declare(without_comments(self.up_to_semicolon()))
        if not isinstance(declared, list) or any(variable.space in ("local", "param") for variable in declared):
            raise PtxError(f"outside of functions there are no such variables: {shorten(self.text[start : self.at])}")
        self.module.variables += declared

    def up_to_semicolon(self) -> str:
        """The text up to the next one, which is skipped."""
        start, depth = self.at, 0
        for found in _BRACE_OR_END.finditer(self.text, start):
            depth += {"{": 1, "}": -1}.get(found[0], 0)
            if found[0] == ";" and not depth:
                self.at = found.end()
                return self.text[start : found.start()]
        raise PtxError(f"the text ends inside of: {shorten(self.text[start : start + 200])}")

    def block(self, name: str) -> str:
        """The text between the brace that stands here and the one that closes it."""
        depth = 0
        for found in _BRACE.finditer(self.text, self.at):
            depth += {"{": 1, "}": -1}.get(found[0], 0)
            if not depth and found[0] in "{}":
                start, self.at = self.at + 1, found.end()
                return self.text[start : found.start()]
        raise PtxError(f"the text ends inside of {name}")

    def function(self, kind: str) -> None:
        end = next((found for found in _END.finditer(self.text, self.at) if found[0] in "{;"), None)
        head = end and _FUNCTION_HEAD.fullmatch(without_comments(self.text[self.at : end.start()]))
        if not head:
            raise PtxError(f"not the head of a function: {shorten(self.text[self.at : self.at + 200])}")
        function = Function(kind, head[2], parameters(head[1] or ""), parameters(head[3] or ""), _directives(head[4]))
        self.at = end.start()
        if end[0] == "{":
            function.body = self.block(function.name)
        else:
            self.at += 1
        known = self.module.functions.get(function.name)
        if known is None or known.body is None:
            self.module.functions[function.name] = function


def _directives(text: str) -> dict[str, tuple[int, ...]]:
    return {name: tuple(map(int, re.findall(r"\d{1,18}", numbers))) for name, numbers in _DIRECTIVE.findall(text)}
