"""A flat kernel -> the arrays that the engine loads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from . import blocks, registers
from .blocks import Block
from .declarations import Parameter, Variable
from .inline import FlatInstruction, FlatKernel, Source
from .lower import LABEL, REGISTER, Lowering, Operation, Symbols, signed
from .syntax import PtxError
from .variables import place_variables

__all__ = ["Program", "Text", "assemble", "place_variables"]

DYNAMIC_ALIGNMENT = 16  # of shared memory whose size a launch tells
MOST_NAMED = 10  # unsupported instructions in a message


class Text(NamedTuple):
    ptx: str
    source: str  # "file:line", and what it was inlined from; "" if unknown


class PlacedParameter(NamedTuple):
    name: str
    size: int
    align: int
    offset: int


@dataclass
class Program:
    """All of a kernel that the engine needs; struct InstructionRecord and its like in native/api.cpp."""

    instructions: (
        np.ndarray
    )  # int32[n, 8]: opcode, guard or -1, negated, first operand, operands, strong, index of its text, 0
    operands: np.ndarray  # int64[m, 4]: kind, register offset, bits or block, bytes of a register, displacement
    blocks: np.ndarray  # int32[b + 1]: first instruction of each, and the end
    specials: np.ndarray  # int32[s, 2]: register offset, which special register
    register_bytes: int
    local_bytes: int
    parameters: list[PlacedParameter]
    parameter_bytes: int
    static_shared: int  # bytes; dynamic shared memory begins behind it
    shared: dict[str, int]  # offsets of variables
    texts: list[Text]


def assemble(
    flat: FlatKernel,
    opcode_id: Callable[[str], int],
    special_id: Callable[[str], int],
    addresses: dict[str, int],
    shared_base: int = 0,
) -> Program:
    """Opcodes and special registers that the functions know as -1 are refused by name."""
    parameters, parameter_bytes = _place_parameters(flat.parameters)
    shared, static_shared = _place_shared(flat.shared, shared_base)
    local, local_bytes = _place_local(flat.local)
    symbols = Symbols({**addresses, **shared, **local}, {one.name: one.offset for one in parameters})
    lowering = Lowering(flat, symbols)
    parts = blocks.build(flat, lowering)
    parts = _in_order(parts, blocks.order([part.targets for part in parts]))
    offsets, register_bytes = registers.allocate(parts, lowering.registers)
    texts = [
        Text(one.text, _told(one.source)) if isinstance(one, FlatInstruction) else Text("", "")
        for one in flat.statements
    ]
    ids = _opcode_ids(parts, opcode_id, texts)
    encoded = _Encoder(ids, offsets, lowering.registers).encode(parts)
    specials = _specials(flat, special_id, offsets)
    return Program(
        *encoded, specials, register_bytes, local_bytes, parameters, parameter_bytes, static_shared, shared, texts
    )


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _place_parameters(parameters: list[Parameter]) -> tuple[list[PlacedParameter], int]:
    placed, end = [], 0
    for one in parameters:
        offset = _round_up(end, one.align)
        placed.append(PlacedParameter(one.name, one.size, one.align, offset))
        end = offset + one.size
    return placed, end


def _place_shared(variables: dict[str, Variable], base: int) -> tuple[dict[str, int], int]:
    """Arrays without a length all begin where the others end: they are the dynamic shared memory."""
    offsets, end = {}, base
    for name, variable in variables.items():
        if variable.size:
            offsets[name] = _round_up(end, variable.align)
            end = offsets[name] + variable.size
    dynamic = {name: variable.align for name, variable in variables.items() if not variable.size}
    if dynamic:
        end = _round_up(end, max(DYNAMIC_ALIGNMENT, *dynamic.values()))
        offsets.update(dict.fromkeys(dynamic, end))
    return offsets, end - base


def _place_local(variables: dict[str, Variable]) -> tuple[dict[str, int], int]:
    offsets, end = {}, 0
    for name, variable in variables.items():
        offsets[name] = _round_up(end, variable.align)
        end = offsets[name] + variable.size
    return offsets, _round_up(end, 16)


def _told(source: Source) -> str:
    if not source.file and not source.line:
        return ""
    told = f"{source.file}:{source.line}"
    return f"{told}, inlined at {_told(source.caller)}" if source.caller and source.caller.line else told


def _in_order(parts: list[Block], order: list[int]) -> list[Block]:
    """The blocks with their new numbers."""
    numbers = {old: new for new, old in enumerate(order)} | {-1: -1}
    for old in order:
        last = parts[old].operations[-1]
        last.operands = [
            operand._replace(value=numbers[operand.value]) if operand.kind == LABEL else operand
            for operand in last.operands
        ]
    return [parts[old] for old in order]


def _opcode_ids(parts: list[Block], opcode_id: Callable[[str], int], texts: list[Text]) -> dict[str, int]:
    """PtxError that names what is unknown."""
    ids, unknown = {}, {}
    for part in parts:
        for operation in part.operations:
            name = operation.opcode
            if name not in ids:
                ids[name] = opcode_id(name)
            if ids[name] < 0:
                unknown.setdefault(texts[operation.index].ptx)
    if unknown:
        more = f" and {len(unknown) - MOST_NAMED} more" if len(unknown) > MOST_NAMED else ""
        raise PtxError(f"unsupported instructions: {'; '.join(list(unknown)[:MOST_NAMED])}{more}")
    return ids


def _specials(flat: FlatKernel, special_id: Callable[[str], int], offsets: dict[str, int]) -> np.ndarray:
    """Rows for those that occur in what can be reached."""
    used = {name: special_id(name) for name in sorted(flat.specials) if name in offsets}
    unknown = [name for name, number in used.items() if number < 0]
    if unknown:
        raise PtxError(f"unknown registers: {', '.join(unknown[:MOST_NAMED])}")
    return np.array([(offsets[name], number) for name, number in used.items()], np.int32).reshape(-1, 2)


class _Encoder:
    def __init__(self, ids: dict[str, int], offsets: dict[str, int], sizes: dict[str, int]):
        self.ids, self.offsets, self.sizes = ids, offsets, sizes
        self.instructions: list[tuple] = []
        self.operands: list[tuple] = []

    def encode(self, parts: list[Block]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Instructions, operands, blocks."""
        starts = []
        for part in parts:
            starts.append(len(self.instructions))
            for operation in part.operations:
                self.add(operation)
        starts.append(len(self.instructions))
        return (
            np.array(self.instructions, np.int32).reshape(-1, 8),
            np.array(self.operands, np.int64).reshape(-1, 4),
            np.array(starts, np.int32),
        )

    def add(self, operation: Operation) -> None:
        guard = -1 if operation.guard is None else self.offsets[operation.guard]
        self.instructions.append(
            (self.ids[operation.opcode], guard, operation.negated, len(self.operands), len(operation.operands),
             operation.strong, operation.index, 0)
        )  # fmt: skip
        for kind, value, displacement in operation.operands:
            if kind == REGISTER:
                self.operands.append((kind, self.offsets[value], self.sizes[value], displacement))
            else:
                self.operands.append((kind, signed(value), 0, displacement))
