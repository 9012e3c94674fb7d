"""A flat kernel -> what the engine loads: opcodes, operands, registers."""

import random

import pytest
from frontend import Assembled, Opcodes, flatten

from pylayers.emulator import opcodes, program
from pylayers.emulator.lower import IMMEDIATE, REGISTER
from pylayers.emulator.syntax import PtxError, literal


@pytest.mark.parametrize(
    "written, name, strong",
    [
        ("ld.global.nc.L1::no_allocate.L2::128B.v4.b32", "ld.global.v4.b32", False),
        ("ld.volatile.shared.u32", "ld.shared.u32", True),
        ("st.release.gpu.global.b32", "st.global.b32", True),
        ("st.shared::cta.v2.b16", "st.shared.v2.b16", False),
        ("st.shared::cluster.b32", "st.shared::cluster.b32", False),
        ("atom.acq_rel.sys.global.add.f32", "atom.global.add.f32", True),
        ("ld.param::entry.b64", "ld.param.b64", False),
        ("bra.uni", "bra", False),
        ("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", "mma.sync.m16n8k16.row.col.f32.bf16.bf16.f32", False),
        ("cp.async.cg.shared::cta.global.L2::128B", "cp.async.cg.shared.global", False),
        ("barrier.sync.aligned", "bar.sync", False),
        ("barrier.sync", "barrier.sync", False),
        ("barrier.cta.arrive.aligned", "bar.arrive", False),
        ("barrier.cluster.arrive.release.aligned", "barrier.cluster.arrive", False),
        ("barrier.cluster.arrive.relaxed.aligned", "barrier.cluster.arrive.relaxed", False),
        ("bar.warp.sync", "bar.warp.sync", False),
        ("cvta.to.global.u64", "mov.b64", False),
        ("cvta.const.u64", "mov.b64", False),
        ("cvta.to.shared::cta.u64", "cvta.to.shared.u64", False),
        ("cvta.param.u64", "cvta.param.u64", False),
        ("fence.proxy.async.shared::cta", "fence", False),
        ("ret.uni", "exit", False),
    ],
)
def test_canonical_names(written, name, strong):
    assert opcodes.canonical(written) == (name, strong)


@pytest.mark.parametrize(
    "text, type, bits",
    [
        ("0", "b32", 0), ("-1", "s32", 2**64 - 1), ("0x1F", "b32", 31), ("017", "b32", 15), ("0b101", "b32", 5),
        ("9U", "u32", 9),
        ("0f3F800000", "f32", 0x3F800000), ("0f3F800000", "b32", 0x3F800000), ("0f3F800000", "f64", 0x3FF0000000000000),
        ("0d3FF0000000000000", "f64", 0x3FF0000000000000), ("0d3FF0000000000000", "f32", 0x3F800000),
        ("0d7FEFFFFFFFFFFFFF", "f32", 0x7F800000), ("1.5", "f32", 0x3FC00000), ("-2.0", "f64", 0xC000000000000000),
        ("3", "pred", 1), ("0", "pred", 0), ("%r1", "b32", None), ("089", "b32", None), ("x", "b32", None),
    ],
)  # fmt: skip
def test_literals(text, type, bits):
    assert literal(text, type) == bits


def test_addresses():
    before = ".global .u32 table[4];\n.shared .align 4 .b8 first[4];\n.shared .align 16 .b8 second[32];"
    made = Assembled(
        """
        .reg .b32 %r<4>; .reg .b64 %rd<4>; .local .align 8 .b8 stack[8];
        ld.param.b32 %r1, [count];
        mov.b32 %r2, first;
        mov.b64 %rd1, table+8;
        ld.global.b32 %r1, [%rd1+-4];
        st.shared.b32 [second+8], %r2;
        ld.local.b32 %r3, [stack];
        ld.const.b32 %r3, [table+4];
        """,
        before,
        addresses={"table": 2**40},
    )
    assert made.operands("ld.param.b32")[1] == [IMMEDIATE, 0, 0, 8]
    assert made.operands("mov.b64")[1] == [IMMEDIATE, 2**40 + 8, 0, 0]
    kind, _, size, displacement = made.operands("ld.global.b32")[1]
    assert (kind, size, displacement) == (REGISTER, 8, -4)
    assert made.operands("st.shared.b32")[0] == [IMMEDIATE, 16, 0, 8]
    assert made.operands("ld.local.b32")[1] == [IMMEDIATE, 0, 0, 0]
    assert made.operands("ld.const.b32")[1] == [IMMEDIATE, 2**40, 0, 4]
    assert made.program.shared == {"first": 0, "second": 16} and made.program.static_shared == 48
    assert made.program.local_bytes == 16
    assert made.program.parameters == [("data", 8, 8, 0), ("count", 4, 4, 8)] and made.program.parameter_bytes == 12


def test_every_address_has_its_displacement():
    made = Assembled(".reg .b32 %r; .reg .b64 %rd; cp.async.ca.shared.global [ %r + 16 ], [ %rd - 0x20 ], 0x10;")
    assert [operand[3] for operand in made.operands("cp.async.ca.shared.global")] == [16, -32, 0]


def test_dynamic_shared_memory_follows_the_static():
    before = ".extern .shared .align 128 .b8 rest[];\n.extern .shared .b32 same[];\n.shared .b8 own[3];"
    body = ".reg .b32 %r; mov.b32 %r, rest; mov.b32 %r, own; mov.b32 %r, same;"
    made = Assembled(body, before)
    assert made.program.shared == {"own": 0, "rest": 128, "same": 128} and made.program.static_shared == 128
    assert Assembled("ret;", before).program.static_shared == 0, "what is not used takes no space"


def test_vectors_pairs_and_sinks():
    made = Assembled(
        """
        .reg .b32 %r<5>; .reg .b64 %rd; .reg .b16 %h<3>; .reg .pred %p<3>;
        ld.global.v4.b32 {%r1, _, %r3, %r4}, [%rd];
        mov.b64 {%r1, %r2}, %rd;
        mov.b32 %r1, {%h1, 0};
        setp.lt.s32 %p1|%p2, %r1, 5;
        shfl.sync.bfly.b32 %r2|_, %r1, 1, 31, -1;
        """
    )
    load = made.operands("ld.global.v4.b32")
    assert len(load) == 5 and load[1] == [REGISTER, 0, 0, 0]
    assert [operand[2] for operand in made.operands("unpack.b64.2")] == [4, 4, 8]
    assert [operand[:1] + operand[2:3] for operand in made.operands("pack.b32.2")] == [[0, 4], [0, 2], [1, 0]]
    assert [operand[2] for operand in made.operands("setp.lt.s32.pred")] == [1, 1, 4, 0]
    assert made.operands("shfl.sync.bfly.b32.pred")[5] == [IMMEDIATE, -1, 0, 0]


def test_cache_policies_are_dropped():
    body = ".reg .b64 %rd<3>; createpolicy.fractional.L2::evict_first.b64 %rd1, 1.0;"
    body += "ld.global.L2::cache_hint.b64 %rd2, [%rd2], %rd1;"
    made = Assembled(body)
    assert made.operands("createpolicy") == [] and len(made.operands("ld.global.b64")) == 2


def test_negated_predicates():
    made = Assembled(".reg .pred %p<4>; .reg .b32 %r; @!%p3 and.pred %p1, %p2, !%p3;")
    assert made.opcodes()[:2] == ["not.pred", "and.pred"]
    assert made.operands("and.pred")[2] == made.operands("not.pred")[0]
    assert made.row("not.pred")[2] == -1 and made.row("and.pred")[2:4] == (made.operands("not.pred")[1][1], 1)


def test_special_registers():
    made = Assembled(".reg .b32 %r; .reg .b64 %rd; add.s32 %r, %tid.x, WARP_SZ; mov.b64 %rd, %clock64;")
    assert set(made.specials) == {"%tid.x", "%clock64"}
    assert made.operands("add.s32")[1:] == [[REGISTER, made.specials["%tid.x"][0], 4, 0], [IMMEDIATE, 32, 0, 0]]
    assert made.operands("mov.b64")[1][2] == 8


def test_unknown_instructions_are_all_named():
    body = ".reg .b32 %r; unknown.one %r; unknown.two %r; unknown.one %r;"
    with pytest.raises(PtxError, match=r"^unsupported instructions: unknown.one %r; unknown.two %r$"):
        Assembled(body)
    many = " ".join(f"unknown.x{i} %r;" for i in range(13))
    with pytest.raises(PtxError, match="unknown.x9 %r and 3 more"):
        Assembled(".reg .b32 %r; " + many)


def test_unknown_registers_are_named():
    flat = flatten(".reg .b32 %r; mov.b32 %r, %nothing;")
    with pytest.raises(PtxError, match="unknown registers: %nothing"):
        program.assemble(flat, Opcodes(), lambda _: -1, {})


def test_short_lived_registers_share_places():
    body = ".reg .f32 %f<200>;" + "".join(f"ld.f32 %f{i}, [0]; st.f32 [4], %f{i};" for i in range(200))
    made = Assembled(body)
    assert made.program.register_bytes <= 512 + 2 * 128


def test_registers_that_cross_blocks_keep_theirs():
    made = Assembled(
        """
        .reg .b32 %r<4>; .reg .pred %p;
        mov.b32 %r1, 1;
        @%p mov.b32 %r2, 2;
        mov.b32 %r3, 3;
        st.b32 [0], %r2;
        bar.sync 0;
        st.b32 [0], %r1;
        """
    )
    one, two, three = (row[1][0][1] for row in made.rows if row[0] == "mov.b32")
    assert len({one, two, three}) == 3


@pytest.mark.parametrize("seed", range(20))
def test_no_two_live_registers_share_a_place(seed):
    """Runs straight code once by names and once by places."""
    choice = random.Random(seed)
    written, body = [], ".reg .b32 %r<40>; .reg .pred %p;\n"
    for _ in range(80):
        target = choice.randrange(40)
        sources = [
            choice.choice(written) if written and choice.random() < 0.9 else choice.randrange(40) for _ in range(2)
        ]
        guard = "@%p " if choice.random() < 0.2 else ""
        body += f"{guard}add.s32 %r{target}, %r{sources[0]}, %r{sources[1]};\n"
        written.append(target)
    made = Assembled(body)
    by_name, by_place = {}, {}
    for number, (statement, row) in enumerate(zip(made.flat.statements, made.rows[:-1], strict=True)):
        names, places = statement.operands, [operand[1] for operand in row[1]]
        for name, place in zip(names[1:], places[1:], strict=True):
            if name in by_name:
                assert by_place[place] == by_name[name]
        by_name[names[0]] = by_place[places[0]] = number
    assert (
        made.program.register_bytes % 64 == 0
        and (made.program.operands[:, 1] % 64 == 0)[made.program.operands[:, 0] == 0].all()
    )
