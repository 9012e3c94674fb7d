"""Basic blocks and their order."""

import random

import pytest
from frontend import Assembled

from pylayers.emulator import blocks, opcodes
from pylayers.emulator.lower import IMMEDIATE, LABEL, REGISTER


def ends(made):
    """The last instruction of each block, with the numbers of blocks among its operands."""
    last = [made.rows[end - 1] for end in made.program.blocks[1:]]
    return [(row[0], [operand[1] for operand in row[1] if operand[0] == LABEL]) for row in last]


def test_a_block_ends_once():
    made = Assembled(
        """
        .reg .pred %p; .reg .b32 %r;
        loop: add.s32 %r, %r, 1;
        @%p bra loop;
        bar.sync 0;
        @%p exit;
        bra.uni end;
        end: mov.b32 %r, 1;
        """
    )
    assert ends(made) == [("bra", [0, 1]), ("bar.sync", [2]), ("exit", [3]), ("bra", [4, 4]), ("exit", [-1])]
    terminators = [row for row in made.rows if row[0] in opcodes.TERMINATORS]
    assert len(terminators) == len(made.program.blocks) - 1
    assert [operand[:2] for operand in made.operands("bar.sync")] == [[IMMEDIATE, 0], [IMMEDIATE, 0], [LABEL, 2]]


def test_indexed_branches():
    made = Assembled(
        """
        .reg .b32 %r;
        table: .branchtargets one, two, one;
        brx.idx %r, table;
        one: mov.b32 %r, 1; ret;
        two: mov.b32 %r, 2;
        """
    )
    assert ends(made) == [("brx.idx", [1, 2, 1]), ("exit", [-1]), ("exit", [-1])]


def test_voting_barriers_are_split():
    made = Assembled(
        ".reg .pred %p<3>; .reg .b32 %r; bar.red.popc.u32 %r, 0, !%p1;@%p2 barrier.red.or.aligned.pred %p1, 1, 64, %p1;"
    )
    assert made.opcodes()[:7] == [
        "bar.red.not", "bar.result.popc", "bra", "bar.red", "bra", "bar.result.or", "goto",
    ]  # fmt: skip
    assert [operand[0] for operand in made.operands("bar.red.not")] == [IMMEDIATE, IMMEDIATE, REGISTER, LABEL]
    assert made.row("bar.red")[2] == -1, "lanes that the guard excludes go around it"


def test_cluster_barriers():
    made = Assembled("barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;")
    assert ends(made) == [("barrier.cluster.wait", [1]), ("exit", [-1])]


def test_order_of_branches_that_meet():
    assert blocks.order([[1, 2], [3], [3], []]) == [0, 1, 2, 3]
    assert blocks.order([[3, 2], [], [1], [1]]) == [0, 2, 3, 1]
    assert blocks.order([[2], [], []]) == [0, 2], "what is not reached is left out"
    assert blocks.order([[0, 1], []]) == [0, 1]


def test_blocks_that_leave_a_loop_stand_behind_it():
    # 1 is a loop's head, 2 leaves it, 4 goes back
    assert blocks.order([[1], [2, 3], [5], [4], [1, 5], []]) == [0, 1, 3, 4, 2, 5]


def test_order_of_many_blocks():
    chain = [[i + 1] for i in range(5000)] + [[]]
    assert blocks.order(chain) == list(range(5001))
    loop = [[i + 1] for i in range(5000)] + [[0]]
    assert blocks.order(loop) == list(range(5001))


def loops_in(successors, inside, edges):
    """Strongly connected components, by the definition."""
    reach = {}
    for start in inside:
        seen, todo = set(), [start]
        while todo:
            for target in edges[todo.pop()]:
                if target in inside and target not in seen:
                    seen.add(target)
                    todo.append(target)
        reach[start] = seen
    return [{b for b in inside if b in reach[a] and a in reach[b]} for a in inside if a in reach[a]]


@pytest.mark.parametrize("seed", range(100))
def test_order_of_random_graphs(seed):
    choice = random.Random(seed)
    count = choice.randrange(2, 14)
    successors = [
        sorted({choice.randrange(count) for _ in range(choice.choice([0, 1, 1, 2, 2]))}) for _ in range(count)
    ]
    order = blocks.order(successors)
    assert order[0] == 0 and len(set(order)) == len(order)
    place = {block: i for i, block in enumerate(order)}
    assert all(target in place for block in order for target in successors[block])
    loops = loops_in(successors, set(order), successors)
    for loop in loops:
        places = sorted(place[block] for block in loop)
        assert places == list(range(places[0], places[-1] + 1)), "a loop is in one piece"
    for block in order:
        for target in successors[block]:
            together = any({block, target} <= loop for loop in loops)
            assert place[target] > place[block] or together, "only loops go back"
