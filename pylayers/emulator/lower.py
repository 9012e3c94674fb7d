"""Instructions of a flat kernel -> operations as the engine runs them: canonical names, operands one by one."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple

from .inline import FlatInstruction, FlatKernel
from .opcodes import RESULT_FIRST, canonical, has_cache_policy, last_type
from .syntax import BYTES, IDENTIFIER, PtxError, literal, split_list

REGISTER, IMMEDIATE, LABEL = 0, 1, 2
SINK = "_"  # the register that takes what nobody wants

_ADDRESS = re.compile(rf"({IDENTIFIER}(?:\.[xyz])?|\w+)\s*(?:([+-])\s*(-?\s*\w+))?|(-\w+)")


class Operand(NamedTuple):
    kind: int
    value: str | int  # name of a register or label, or the bits of an immediate
    displacement: int = 0  # added to an address


@dataclass
class Operation:
    opcode: str
    operands: list[Operand]
    guard: str | None = None
    negated: bool = False
    strong: bool = False
    index: int = 0  # of the instruction in the flat kernel
    results: int = 0  # that many operands, from the first on, are written and not read


@dataclass
class Symbols:
    """What the names of variables stand for."""

    values: dict[str, int] = field(default_factory=dict)  # shared and local: offsets; global: addresses
    parameters: dict[str, int] = field(default_factory=dict)  # offsets


class Lowering:
    def __init__(self, flat: FlatKernel, symbols: Symbols):
        self.flat, self.symbols = flat, symbols
        self.registers = dict(flat.registers)  # and those made here
        self.registers.update((name, _special_bytes(name)) for name in flat.specials)
        self.registers[SINK] = 0

    def lower(self, instruction: FlatInstruction, index: int) -> list[Operation]:
        """One or more operations, the last of which may end a basic block."""
        self.before: list[Operation] = []
        self.text = instruction.text
        opcode, strong = canonical(instruction.opcode)
        operands = list(instruction.operands)
        if has_cache_policy(instruction.opcode):
            operands.pop()
        votes = opcode.startswith(("bar.red.", "barrier.red."))
        if len(operands) < (3 if votes else opcode == "bra"):
            raise PtxError(f"operands are missing: {self.text}")
        if votes:
            made = self.voting_barrier(opcode, operands)
        else:
            made = [self.plain(opcode, operands, last_type(instruction.opcode))]
        for operation in made:
            operation.guard, operation.negated, operation.strong = instruction.guard, instruction.negated, strong
        for operation in (*self.before, *made):
            operation.index = index
        return [*self.before, *made]

    def plain(self, opcode: str, operands: list[str], type: str) -> Operation:
        kind = opcode.split(".", 1)[0]
        if opcode == "bra":
            return Operation("bra", [Operand(LABEL, operands[0])])
        if opcode == "brx.idx" and len(operands) == 2:
            targets = [Operand(LABEL, label) for label in self.flat.tables.get(operands[1], ())]
            return Operation(opcode, [self.one(operands[0], "u32"), *targets])
        if kind in ("membar", "fence", "nanosleep", "griddepcontrol", "prefetch", "createpolicy", "pragma"):
            return Operation(opcode, [])
        if kind == "mov" and len(operands) == 2 and "{" in operands[0] + operands[1]:
            opcode = _packing(opcode, operands, type)
            kind = opcode.split(".", 1)[0]
        if any(operand.startswith("[") for operand in operands):
            opcode = self.local_parameters(opcode, operands)
        groups = [self.group(operand, type) for operand in operands]
        if operands and "|" in operands[0]:
            opcode += ".pred"
        made = Operation(opcode, [operand for group in groups for operand in group])
        made.results = len(groups[0]) if groups and kind in RESULT_FIRST else 0
        if opcode in ("bar.sync", "barrier.sync", "bar.arrive", "barrier.arrive"):
            made.operands += [Operand(IMMEDIATE, 0)] * (2 - len(made.operands))
        return made

    def local_parameters(self, opcode: str, operands: list[str]) -> str:
        """Parameters of inlined functions are variables in local memory."""
        kind, _, rest = opcode.partition(".param")
        base = next(operand for operand in operands if operand.startswith("["))[1:-1]
        name = re.match(rf"\s*({IDENTIFIER})", base)
        return f"{kind}.local{rest}" if name and name[1] in self.flat.local and ".param" in opcode else opcode

    def voting_barrier(self, opcode: str, operands: list[str]) -> list[Operation]:
        """bar.red.or.pred d, id{, count}, {!}p: the barrier, and what follows when it has opened."""
        barrier, function = opcode.split(".red.")
        function = function.split(".")[0]
        result, number, *count, vote = operands
        name = f"{barrier}.red.not" if vote.startswith("!") else f"{barrier}.red"
        wait = [
            self.one(number, "u32"),
            self.one(count[0] if count else "0", "u32"),
            self.one(vote.lstrip("! "), "pred"),
        ]
        return [Operation(name, wait), Operation(f"bar.result.{function}", [self.one(result, "u32")])]

    def group(self, text: str, type: str) -> list[Operand]:
        """The operands that an operand in brackets, or with a bar, consists of."""
        if text.startswith("{"):
            return [operand for item in split_list(text[1:-1]) for operand in self.group(item, type)]
        if text.startswith("["):
            first, *rest = split_list(text[1:-1])
            return [self.address(first), *(operand for item in rest for operand in self.group(item, "s32"))]
        if "|" in text:
            return [self.one(item.strip(), type) for item in text.split("|")]
        return [self.one(text, type)]

    def one(self, text: str, type: str) -> Operand:
        if text in self.registers:
            return Operand(REGISTER, text)
        value = literal(text, type)
        if value is not None:
            return Operand(IMMEDIATE, value)
        if text.startswith("!"):
            return self.negation(text[1:].strip())
        base = self.address(text)  # symbol or symbol+4
        if base.kind != IMMEDIATE:
            raise PtxError(f"operand {text} is not understood: {self.text}")
        return Operand(IMMEDIATE, base.value + base.displacement & 0xFFFFFFFFFFFFFFFF)

    def negation(self, predicate: str) -> Operand:
        name = f"!{predicate}"
        self.registers[name] = 1
        self.before.append(Operation("not.pred", [Operand(REGISTER, name), self.one(predicate, "pred")], results=1))
        return Operand(REGISTER, name)

    def address(self, text: str) -> Operand:
        found = _ADDRESS.fullmatch(text.strip())
        base = found and (found[1] or found[4])
        offset = literal(found[3].replace(" ", ""), "b64") if found and found[3] else 0
        if not found or offset is None:
            raise PtxError(f"operand {text} is not understood: {self.text}")
        displacement = signed(-offset if found[2] == "-" else offset)
        if base in self.registers:
            return Operand(REGISTER, base, displacement)
        if base in self.symbols.parameters:
            return Operand(IMMEDIATE, 0, signed(self.symbols.parameters[base] + displacement))
        value = self.symbols.values[base] if base in self.symbols.values else literal(base, "b64")
        if value is None:
            raise PtxError(f"{base} has no address: {self.text}")
        return Operand(IMMEDIATE, value, displacement)


def _packing(opcode: str, operands: list[str], type: str) -> str:
    """mov of a vector of registers to one register, or back."""
    kind = "unpack" if operands[0].startswith("{") else "pack"
    parts = split_list(operands[kind == "pack"].strip("{} "))
    return f"{kind}.b{8 * BYTES[type]}.{len(parts)}" if type in BYTES else opcode


def signed(bits: int) -> int:
    """The 64 bits as a number with a sign."""
    return ((bits & 0xFFFFFFFFFFFFFFFF) ^ 1 << 63) - (1 << 63)


def _special_bytes(name: str) -> int:
    """Of a special register."""
    if name in ("%clock64", "%globaltimer", "%gridid"):
        return 8
    return 1 if name == "%is_explicit_cluster" else 4
