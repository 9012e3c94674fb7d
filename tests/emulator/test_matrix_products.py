"""mma: fragments as PTX's manual draws them, against a product of NumPy."""

import numpy as np
import pytest
from pylayers.emulator import Fault, launch

KERNEL = """
.version 8.8
.target sm_100a
.address_size 64
.visible .entry test(.param .u64 pa, .param .u64 pb, .param .u64 pc, .param .u64 pd)
{{
.reg .b32 %r<40>;
.reg .b64 %a, %b, %c, %d, %x<40>;
.reg .pred %p;
mov.u32 %r0, %tid.x;
{body}
ret;
}}
"""

SHAPES = [
    ("m16n8k8", "f16", "f32"), ("m16n8k16", "f16", "f32"), ("m16n8k8", "f16", "f16"), ("m16n8k16", "f16", "f16"),
    ("m16n8k8", "bf16", "f32"), ("m16n8k16", "bf16", "f32"), ("m16n8k4", "tf32", "f32"), ("m16n8k8", "tf32", "f32"),
    ("m8n8k4", "f64", "f64"), ("m16n8k8", "f64", "f64"), ("m8n8k16", "s8", "s32"), ("m16n8k16", "u8", "s32"),
    ("m16n8k32", "s8", "s32"),
]  # fmt: skip
BYTES = {"f16": 2, "bf16": 2, "tf32": 4, "f64": 8, "s8": 1, "u8": 1, "f32": 4, "s32": 4}
STORED = {"f16": np.float16, "bf16": np.uint16, "tf32": np.float32, "f64": np.float64, "s8": np.int8, "u8": np.uint8,
          "f32": np.float32, "s32": np.int32}  # fmt: skip


def sizes_of(shape):
    m, rest = shape[1:].split("n")
    n, k = rest.split("k")
    return int(m), int(n), int(k)


def elements_of_a(type, m, k):
    """(row, column) of each element that a lane holds, in order, for the lane's group and its place in it."""
    per = max(4 // BYTES[type], 1)
    for index in range(m * k // 32 // per):
        for element in range(per):
            yield lambda g, t, i=index, e=element: (g + 8 * (i % (m // 8)), t * per + e + 4 * per * (i // (m // 8)))


def elements_of_b(type, k):
    per = max(4 // BYTES[type], 1)
    for index in range(k * 8 // 32 // per):
        for element in range(per):
            yield lambda g, t, i=index, e=element: (t * per + e + 4 * per * i, g)


def elements_of_c(m):
    for index in range(m * 8 // 32):
        yield lambda g, t, i=index: (g + 8 * (i // 2), 2 * t + i % 2)


def fragments(matrix, elements):
    """What the lanes hold, one row for each."""
    places = list(elements)
    return np.array([[matrix[place(lane // 4, lane % 4)] for place in places] for lane in range(32)])


def assembled(held, elements, shape):
    matrix = np.zeros(shape, held.dtype)
    for number, place in enumerate(elements):
        for lane in range(32):
            matrix[place(lane // 4, lane % 4)] = held[lane, number]
    return matrix


def kernel(name, shape, type, sum_type, guard=""):
    m, n, k = sizes_of(shape)
    counts = {"a": m * k * BYTES[type] // 32, "b": k * n * BYTES[type] // 32, "c": m * n * BYTES[sum_type] // 32}
    size, bank = (8, "x") if type == "f64" else (4, "r")
    registers, body, used = {}, "", 1
    for which, count in counts.items():
        body += f"ld.param.u64 %{which}, [p{which}];\nmad.wide.u32 %{which}, %r0, {count}, %{which};\n"
        registers[which] = [f"%{bank}{used + i}" for i in range(count // size)]
        used += count // size
        for i, one in enumerate(registers[which]):
            body += f"ld.global.b{8 * size} {one}, [%{which}+{size * i}];\n"
    braces = {which: "{" + ", ".join(names) + "}" for which, names in registers.items()}
    body += f"{guard}{name} {braces['c']}, {braces['a']}, {braces['b']}, {braces['c']};\n"
    body += f"ld.param.u64 %d, [pd];\nmad.wide.u32 %d, %r0, {counts['c']}, %d;\n"
    body += "".join(f"st.global.b{8 * size} [%d+{size * i}], {one};\n" for i, one in enumerate(registers["c"]))
    return launch.Module(KERNEL.format(body=body)).kernel("test")


def random_matrix(rng, type, shape):
    """Small integers and halves, of which all sums are exact. Returns what is stored and what it means."""
    if type in ("s8", "u8", "s32"):
        numbers = rng.integers(0 if type == "u8" else -100, 100, shape)
        return numbers.astype(STORED[type]), numbers.astype(np.float64)
    numbers = rng.integers(-8, 8, shape) / 2
    if type == "bf16":
        return (numbers.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16), numbers
    return numbers.astype(STORED[type]), numbers


@pytest.mark.parametrize("shape, type, sum_type", SHAPES)
def test_products(shape, type, sum_type):
    m, n, k = sizes_of(shape)
    rng = np.random.default_rng(k)
    (a, a_numbers), (b, b_numbers), (c, c_numbers) = (
        random_matrix(rng, one, size) for one, size in ((type, (m, k)), (type, (k, n)), (sum_type, (m, n)))
    )
    layouts = elements_of_a(type, m, k), elements_of_b(type, k), elements_of_c(m)
    held = [fragments(matrix, elements) for matrix, elements in zip((a, b, c), layouts, strict=True)]
    result = np.zeros_like(held[2])
    name = f"mma.sync.aligned.{shape}.row.col.{sum_type}.{type}.{type}.{sum_type}"
    counts = kernel(name, shape, type, sum_type).launch(1, 32, [*held, result])
    found = assembled(result, elements_of_c(m), (m, n))
    np.testing.assert_array_equal(found.astype(np.float64), a_numbers @ b_numbers + c_numbers)
    assert counts.matrix_flops == 2 * m * n * k


def test_integer_sums_saturate_or_wrap():
    held = [np.full((32, 8), 100, np.int8), np.full((32, 4), 100, np.int8), np.full((32, 4), 2**31 - 5, np.int32)]
    for modifier, expected in (("", -(2**31) + 16 * 10000 - 5), (".satfinite", 2**31 - 1)):
        result = np.zeros((32, 4), np.int32)
        name = f"mma.sync.aligned.m16n8k16.row.col{modifier}.s32.s8.s8.s32"
        kernel(name, "m16n8k16", "s8", "s32").launch(1, 32, [*held, result])
        assert (result == expected).all()


def test_lanes_missing():
    held = [np.zeros((32, 8), np.float16), np.zeros((32, 4), np.float16), np.zeros((32, 4), np.float32)]
    name = "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"
    guarded = kernel(name, "m16n8k16", "f16", "f32", guard="setp.lt.u32 %p, %r0, 16;\n@%p ")
    with pytest.raises(Fault, match="mma needs all lanes of the warp"):
        guarded.launch(1, 32, [*held, np.zeros((32, 4), np.float32)])
