"""What the lanes of a warp do together: shuffles, votes, matches, reductions, matrix products."""

import random

import numpy as np
import pytest
from instruction_kernels import formats_of, run, samples
from number_formats import FORMATS
from pylayers.emulator import Fault

FULL = 0xFFFFFFFF
WARPS = 14
LANES = range(32)


def by_warp(column):
    return [column[32 * i : 32 * i + 32] for i in range(len(column) // 32)]


def check_warps(body, result, arguments, given, function):
    """`function` takes the arguments of a whole warp and gives its results."""
    found = run(body, formats_of(f"{result} {arguments}"), given)
    for number, warp in enumerate(by_warp(found)):
        values = [by_warp(column)[number] for column in given]
        assert warp == list(function(*values)), (body, values)


def values(type, seed="warp"):
    return samples(formats_of(type), seed, 32 * WARPS)[0]


def source(mode, lane, b, c):
    """The manual's definition."""
    b, bound, segment = b & 31, c & 31, c >> 8 & 31
    highest = (lane & segment) | (bound & ~segment)
    chosen = {"up": lane - b, "down": lane + b, "bfly": lane ^ b, "idx": (lane & segment) | (b & ~segment)}[mode]
    inside = chosen >= highest if mode == "up" else chosen <= highest
    return (chosen if inside else lane), inside


@pytest.mark.parametrize("mode", ("up", "down", "bfly", "idx"))
@pytest.mark.parametrize("width", (32, 16, 4))
def test_shuffles(mode, width):
    control = (32 - width) << 8 | (0 if mode == "up" else 31)
    rng = random.Random(width)
    given = [values("u32"), [rng.randrange(32) for _ in range(32 * WARPS)]]
    if mode == "bfly":  # else lanes may ask others that are beyond the segment
        given[1] = [step for _ in range(WARPS) for step in [rng.randrange(32)] * 32]
    result = lambda a, b: [a[source(mode, lane, b[lane], control)[0]] for lane in LANES]
    inside = lambda a, b: [int(source(mode, lane, b[lane], control)[1]) for lane in LANES]
    tail = f"{{1}}, {{2}}, {control}, {FULL}"
    check_warps(f"shfl.sync.{mode}.b32 {{0}}, {tail}", "u32", "u32 u32", given, result)
    check_warps(f"shfl.sync.{mode}.b32 {{0}}|%p8, {tail}", "u32", "u32 u32", given, result)
    check_warps(f"shfl.sync.{mode}.b32 %r8|{{0}}, {tail}", "pred", "u32 u32", given, inside)


def test_votes():
    rng = random.Random(0)
    likely = [rng.random() < limit for limit in [0, 1, *[0.5] * (WARPS - 2)] for _ in LANES]
    given = [[int(bit) for bit in likely]]
    ballot = lambda p: sum(bit << lane for lane, bit in enumerate(p))
    check_warps(f"vote.sync.ballot.b32 {{0}}, {{1}}, {FULL}", "u32", "pred", given, lambda p: [ballot(p)] * 32)
    check_warps(f"vote.sync.all.pred {{0}}, {{1}}, {FULL}", "pred", "pred", given, lambda p: [min(p)] * 32)
    check_warps(f"vote.sync.any.pred {{0}}, {{1}}, {FULL}", "pred", "pred", given, lambda p: [max(p)] * 32)
    check_warps(f"vote.sync.any.pred {{0}}, !{{1}}, {FULL}", "pred", "pred", given, lambda p: [1 - min(p)] * 32)
    uniform = lambda p: [int(len(set(p)) == 1)] * 32
    check_warps(f"vote.sync.uni.pred {{0}}, {{1}}, {FULL}", "pred", "pred", given, uniform)


def test_groups_inside_a_warp():
    """Even and odd lanes vote for themselves."""
    masks = [(0x55555555 << (lane & 1)) & FULL for _ in range(WARPS) for lane in LANES]
    given = [[value & 1 for value in values("u32")], masks]
    ballot = lambda p, m: [sum(p[i] << i for i in LANES if m[lane] >> i & 1) for lane in LANES]
    check_warps("vote.sync.ballot.b32 {0}, {1}, {2}", "u32", "pred u32", given, ballot)
    leader = lambda p, m: [lane & 1 for lane in LANES]
    check_warps("elect.sync {0}|%p8, {2}", "u32", "pred u32", given, leader)
    leads = lambda p, m: [int(lane < 2) for lane in LANES]
    check_warps("elect.sync _|{0}, {2}", "pred", "pred u32", given, leads)
    overlapping = [given[0], [FULL if lane % 32 else FULL >> 1 for lane in range(32 * WARPS)]]
    with pytest.raises(Fault, match="member mask differs from that of lane 1"):
        check_warps("vote.sync.ballot.b32 {0}, {1}, {2}", "u32", "pred u32", overlapping, ballot)


@pytest.mark.parametrize("bits", (32, 64))
def test_matches(bits):
    word = f"u{bits}"
    given = [[value % 5 << (bits - 8) for value in values(word)]]
    given[0][:32] = [7] * 32
    any_of = lambda a: [sum((a[i] == a[lane]) << i for i in LANES) for lane in LANES]
    check_warps(f"match.any.sync.b{bits} {{0}}, {{1}}, {FULL}", "u32", word, given, any_of)
    same = lambda a: len(set(a)) == 1
    check_warps(f"match.all.sync.b{bits} {{0}}|%p8, {{1}}, {FULL}", "u32", word, given, lambda a: [FULL * same(a)] * 32)
    check_warps(f"match.all.sync.b{bits} %r8|{{0}}, {{1}}, {FULL}", "pred", word, given, lambda a: [int(same(a))] * 32)


@pytest.mark.parametrize("type", ("u32", "s32"))
def test_reductions(type):
    format, given = FORMATS[type], [values("u32")]
    decoded = lambda a: [format.decode(bits) for bits in a]
    for name, function in (("add", sum), ("min", min), ("max", max)):
        expected = lambda a, function=function: [format.encode(function(decoded(a)))] * 32
        check_warps(f"redux.sync.{name}.{type} {{0}}, {{1}}, {FULL}", "u32", "u32", given, expected)
    for name, function in (("and", np.bitwise_and), ("or", np.bitwise_or), ("xor", np.bitwise_xor)):
        expected = lambda a, function=function: [int(function.reduce(a))] * 32
        check_warps(f"redux.sync.{name}.b32 {{0}}, {{1}}, {FULL}", "u32", "u32", given, expected)


def test_float_reductions():
    f32 = FORMATS["f32"]
    given = [[f32.encode(float(np.float32(0.1 * (bits % 100) - 5))) for bits in values("u32")]]
    decoded = lambda a: [f32.decode(bits) for bits in a]
    largest = lambda a: [f32.encode(max(decoded(a)))] * 32
    check_warps(f"redux.sync.max.f32 {{0}}, {{1}}, {FULL}", "u32", "u32", given, largest)
    smallest = lambda a: [f32.encode(min(map(abs, decoded(a))))] * 32
    check_warps(f"redux.sync.min.abs.f32 {{0}}, {{1}}, {FULL}", "u32", "u32", given, smallest)


def test_active_lanes():
    body = "setp.lt.u32 %p8, {1}, 5; mov.u32 {0}, 0; @%p8 activemask.b32 {0}"
    given = [[lane for _ in range(WARPS) for lane in LANES]]
    check_warps(body, "u32", "u32", given, lambda a: [31] * 5 + [0] * 27)


def test_transposed_matrix():
    given = [values("u32")]

    def transposed(a):
        matrix = np.array(a, np.uint32).view(np.uint16).reshape(8, 8)
        return [int(bits) for bits in np.ascontiguousarray(matrix.T).view(np.uint32).ravel()]

    check_warps("movmatrix.sync.aligned.m8n8.trans.b16 {0}, {1}", "u32", "u32", given, transposed)
