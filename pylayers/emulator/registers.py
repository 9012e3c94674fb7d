"""Where registers lie, 32 lanes side by side. Short-lived ones share places, so that a warp's stay in the cache."""

from __future__ import annotations

from collections import defaultdict

from .blocks import Block
from .lower import REGISTER, SINK, Operation

LANES = 32
SINK_BYTES = 16 * LANES  # at offset 0
ALIGNMENT = 64


class Places:
    """Hands out places for registers of each size, and takes them back."""

    def __init__(self, start: int):
        self.end = start
        self.free: dict[int, list[int]] = defaultdict(list)

    def take(self, size: int) -> int:
        if self.free[size]:
            return self.free[size].pop()
        offset = self.end
        self.end += -(-LANES * size // ALIGNMENT) * ALIGNMENT
        return offset

    def give_back(self, size: int, offset: int) -> None:
        self.free[size].append(offset)


def allocate(blocks: list[Block], sizes: dict[str, int]) -> tuple[dict[str, int], int]:
    """Offset of every register that occurs, and the bytes that all take."""
    temporary = _temporaries(blocks)
    places = Places(SINK_BYTES)
    offsets = {SINK: 0}
    for name in _names(blocks):
        if name not in temporary and name not in offsets:
            offsets[name] = places.take(sizes[name])
    for block in blocks:
        _place_temporaries(block, temporary, sizes, places, offsets)
    return offsets, places.end


def _used(operation: Operation) -> list[str]:
    """Names of registers that the operation reads, or writes in part."""
    written = 0 if operation.guard else operation.results
    names = [operand.value for operand in operation.operands[written:] if operand.kind == REGISTER]
    return [*names, operation.guard] if operation.guard else names


def _defined(operation: Operation) -> list[str]:
    """Names of registers that it writes for all lanes that run it."""
    if operation.guard:
        return []
    return [operand.value for operand in operation.operands[: operation.results] if operand.kind == REGISTER]


def _names(blocks: list[Block]) -> list[str]:
    operations = [operation for block in blocks for operation in block.operations]
    return [name for operation in operations for name in (*_used(operation), *_defined(operation))]


def _temporaries(blocks: list[Block]) -> set[str]:
    """Registers that occur in one block only and are written there before they are used. Lanes that run a block run all
    of it together, so nothing of them outlives it."""
    home: dict[str, int] = {}
    elsewhere = {SINK}
    for number, block in enumerate(blocks):
        for operation in block.operations:
            for name in _used(operation):
                if home.get(name) != number:
                    elsewhere.add(name)
            for name in _defined(operation):
                if home.setdefault(name, number) != number:
                    elsewhere.add(name)
    return set(home) - elsewhere


def _place_temporaries(
    block: Block, temporary: set[str], sizes: dict[str, int], places: Places, offsets: dict[str, int]
) -> None:
    last = {}
    for position, operation in enumerate(block.operations):
        for name in (*_used(operation), *_defined(operation)):
            if name in temporary:
                last[name] = position
    ends = defaultdict(list)
    for name, position in last.items():
        ends[position].append(name)
    for position, operation in enumerate(block.operations):
        for name in _defined(operation):
            if name in temporary and name not in offsets:
                offsets[name] = places.take(sizes[name])
        for name in ends[position]:  # only now: a result never lies where an operand of the same instruction is
            places.give_back(sizes[name], offsets[name])
