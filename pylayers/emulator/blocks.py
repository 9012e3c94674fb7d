"""Basic blocks, and the order in which the engine is to run them.

Of the blocks at which lanes of a warp stand, the engine runs the first one. So that lanes which part meet again as
early as they can, a block stands behind all that lead to it, but for the way back in a loop; and what is outside of a
loop stands before or behind all of it, or else lanes that leave early would run ahead of those that still go round.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .body import Label
from .inline import FlatKernel
from .lower import LABEL, Lowering, Operand, Operation
from .opcodes import TERMINATORS
from .syntax import PtxError


@dataclass
class Block:
    operations: list[Operation] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)  # numbers of blocks that may follow


def build(flat: FlatKernel, lowering: Lowering) -> list[Block]:
    """The blocks in the order of the text. Labels become numbers of blocks, -1 where the kernel ends."""
    blocks, labels = [Block()], {}
    for index, statement in enumerate(flat.statements):
        if isinstance(statement, Label):
            if blocks[-1].operations:
                blocks.append(Block())
            labels[statement.name] = len(blocks) - 1
            continue
        for operation in lowering.lower(statement, index):
            _append(blocks, labels, operation)
    for number, block in enumerate(blocks):
        _finish(block, number + 1 if number + 1 < len(blocks) else -1, labels)
    return blocks


def _append(blocks: list[Block], labels: dict[str, int], operation: Operation) -> None:
    """To the last block; after what ends a block a new one begins."""
    around = operation.guard and operation.opcode.startswith(("brx", "bar.red", "bar.result", "barrier.red"))
    if around:  # the engine runs these unguarded only
        skip = f" after {len(blocks)}"
        blocks[-1].operations.append(Operation("bra", [Operand(LABEL, skip)], operation.guard, not operation.negated,
                                               index=operation.index))  # fmt: skip
        blocks.append(Block())
        operation.guard, operation.negated = None, False
    blocks[-1].operations.append(operation)
    if around or operation.opcode in TERMINATORS:
        blocks.append(Block())
    if around:
        labels[skip] = len(blocks) - 1


def _finish(block: Block, following: int, labels: dict[str, int]) -> None:
    """Gives the block its last operand, or a goto, and its targets."""
    last = block.operations[-1] if block.operations else None
    if last is None or last.opcode not in TERMINATORS:
        last = Operation("exit" if following < 0 else "goto", [], index=last.index if last else 0)
        block.operations.append(last)
    last.operands = [_number(operand, labels) for operand in last.operands]
    if last.opcode == "bra" and not last.guard:
        following = last.operands[0].value
    if last.opcode == "exit" and not last.guard:
        following = -1
    if last.opcode != "brx.idx":
        last.operands.append(Operand(LABEL, following))
    block.targets = sorted({operand.value for operand in last.operands if operand.kind == LABEL} - {-1})


def _number(operand: Operand, labels: dict[str, int]) -> Operand:
    if operand.kind != LABEL:
        return operand
    if operand.value not in labels:
        raise PtxError(f"there is no label {operand.value}")
    return Operand(LABEL, labels[operand.value])


def order(successors: list[list[int]]) -> list[int]:
    """Numbers of the blocks that can be reached from block 0, in execution order."""
    edges = [list(targets) for targets in successors]
    result: list[int] = []
    loops = _components(edges, 0, set(range(len(edges))))[::-1]
    while loops:
        loop = loops.pop()
        head = loop[0]
        if len(loop) == 1:
            result.append(head)
            continue
        inside = set(loop)
        for block in loop:  # without the ways back to its head the loop comes apart
            edges[block] = [target for target in edges[block] if target in inside and target != head]
        loops += reversed(_components(edges, head, inside))
    return result


def _components(edges: list[list[int]], start: int, inside: set[int]) -> list[list[int]]:
    """Strongly connected components of what is reached from `start` without leaving `inside`, each after all that lead
    to it. The first block of one is where it is entered. (Tarjan's algorithm, with a stack of its own.)"""
    number: dict[int, int] = {}
    lowest: dict[int, int] = {}
    place: dict[int, int] = {}  # among the waiting ones
    waiting: list[int] = []  # blocks whose component is not complete
    is_waiting: set[int] = set()
    result = []

    def enter(block):
        number[block] = lowest[block] = len(number)
        place[block] = len(waiting)
        waiting.append(block)
        is_waiting.add(block)
        # What comes first in the text is visited last, so that it comes first where nothing else decides.
        return block, iter(sorted((target for target in edges[block] if target in inside), reverse=True))

    path = [enter(start)]
    while path:
        block, targets = path[-1]
        for target in targets:
            if target not in number:
                path.append(enter(target))
                break
            if target in is_waiting:
                lowest[block] = min(lowest[block], number[target])
        else:
            path.pop()
            if path:
                lowest[path[-1][0]] = min(lowest[path[-1][0]], lowest[block])
            if lowest[block] == number[block]:
                at = place[block]
                result.append(waiting[at:])
                is_waiting.difference_update(waiting[at:])
                del waiting[at:]
    return result[::-1]
