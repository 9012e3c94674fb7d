"""PTX text -> a flat kernel."""

import random
import struct

import pytest
from frontend import HEAD, Assembled, Opcodes, flatten

from pylayers.emulator import declarations, inline, program, ptx
from pylayers.emulator.syntax import PtxError

HELPER = (
    HEAD
    + """
.file 1 "kernel.cu"
.file 2 "helper.h"
.extern .func (.param .b32 result) vprintf (.param .b64 format, .param .b64 arguments);
.extern .func __assertfail (.param .b64 message) .noreturn;
.func (.param .b32 out) helper (.param .b32 in)
{
    .reg .b32 %r<3>;
    .shared .align 4 .b8 scratch[64];
    .loc 2 7 0
    ld.param.b32 %r1, [in];
    mov.b32 %r2, scratch;
    st.param.b32 [out+0], %r2;
    ret;
}
.visible .entry kernel (.param .u64 data, .param .align 8 .b8 two[16])
.maxntid 128, 1, 1
.explicitcluster
{
    .reg .b32 %r<4>;
    .reg .pred %p<2>;
    .loc 1 3 0
    {
        .param .b32 argument;
        st.param.b32 [argument+0], %r1;
        .param .b32 result;
        call.uni (result), helper, (argument);
        ld.param.b32 %r2, [result+0];
    }
    { .param .b32 argument; .param .b32 result; call (result), helper, (argument); }
    @%p1 exit;
    ret;
}
"""
)


def test_module():
    module = ptx.parse(HELPER)
    assert (module.version, module.target, module.entries) == ((8, 0), "sm_80", ["kernel"])
    kernel = module.functions["kernel"]
    assert kernel.parameters == [ptx.Parameter("data", 8, 8), ptx.Parameter("two", 16, 8)]
    assert kernel.directives == {"maxntid": (128, 1, 1), "explicitcluster": ()}
    assert module.functions["helper"].returns == [ptx.Parameter("out", 4, 4)]
    assert module.functions["vprintf"].body is None
    assert module.files == {1: "kernel.cu", 2: "helper.h"}


def test_alignment_of_a_pointers_target_is_not_the_parameters():
    assert declarations.parameters(".param .u64 .ptr .global .align 1 p") == [ptx.Parameter("p", 8, 8)]
    assert declarations.parameters(".param .align 16 .b8 p[40]") == [ptx.Parameter("p", 40, 16)]


def test_variables():
    text = """
    .global .align 4 .b8 bytes[6] = {1, 2, 0xff};
    .const .f32 single = 0f3F800000;
    .global .u64 pointers[3] = {bytes, generic(bytes)+4, 7};
    .visible .global .align 4 .s16 matrix[2][2] = {{-1}, {2, 3}};
    .extern .shared .align 16 .b8 dynamic[];
    .global .v2 .f64 pair;
    """
    bytes_, single, pointers, matrix, dynamic, pair = ptx.parse(HEAD + text).variables
    assert (bytes_.initializer, bytes_.size, bytes_.align) == (b"\1\2\xff\0\0\0", 6, 4)
    assert single.initializer == struct.pack("<f", 1) and single.space == "const"
    assert pointers.references == ((0, "bytes", 0), (8, "bytes", 4)) and pointers.initializer[16:] == struct.pack(
        "<Q", 7
    )
    assert matrix.initializer == struct.pack("<4h", -1, 0, 2, 3)
    assert (dynamic.size, dynamic.align, dynamic.extern) == (0, 16, True)
    assert (pair.size, pair.align, pair.initializer) == (16, 16, None)


def test_variables_in_memory():
    module = ptx.parse(HEAD + ".global .align 1 .b8 a[5] = {9};\n.const .u64 b = a+3;\n.extern .global .u32 elsewhere;")
    memory, addresses = program.place_variables(module)
    assert set(addresses) == {"a", "b"} and addresses["b"] % 8 == 0
    assert memory.spans == [(addresses["a"], 5, True), (addresses["b"], 8, False)]
    at = addresses["b"] - memory.memory.ctypes.data
    assert int(memory.memory[at : at + 8].view("uint64")[0]) == addresses["a"] + 3


def test_comments_and_strings_may_hold_anything():
    body = '// } "\n/* { */ .pragma "used } // bytes";\n{ // { \n ret; } /* ; */'
    assert [statement.opcode for statement in flatten(body).statements] == ["ret"]


def test_debug_sections_are_skipped():
    text = (
        HEAD
        + ".entry kernel () { ret; }\n.section .debug_str\n{\nlabel:\n.b8 123 // a { brace\n}\n"
        + ".section .debug_macinfo { }\n"
    )
    assert ptx.parse(text).entries == ["kernel"]


@pytest.mark.parametrize(
    "text, told",
    [
        ("", "begins with .version"),
        ("\x7fELF", "begins with .version"),
        (".version 10.0\n.target sm_80", "10.0 is not known, 6.0 to 9.3 is"),
        (".version 5.0\n.target sm_20", "5.0"),
        (".version 8.0\n.address_size 64", "without .target"),
        (".version 8.0\n.target sm_80\n.address_size 32", "32 bits"),
        (HEAD + ".entry kernel () { ret;", "the text ends inside of kernel"),
        (HEAD + ".entry kernel (.param .u32 a", "not the head of a function"),
        (HEAD + ".global .b8 a[4", "the text ends inside of"),
        (HEAD + ".global .b8 a[2] = {1, 2, 3};", "more initial values"),
        (HEAD + ".global .b8 a[x];", "no number"),
        (HEAD + "hello;", "not a declaration"),
        (HEAD + ".entry kernel () { .reg .b32 %r<99999999999>; }", "too many registers"),
        (HEAD + ".entry kernel () { mov.b32 %r1, %r2 }", "not a statement"),
        (HEAD + ".entry kernel () { ld.b32 %r1, [%r2; }", "not closed"),
        (HEAD + ".entry kernel () { add.s32 %r1,, 3; }", "empty item"),
        (HEAD + ".entry kernel () { bra nowhere; }", "unknown name nowhere"),
        (HEAD + ".entry other () { ret; }", "there is no kernel kernel; kernels are other"),
        (HEAD + ".entry kernel () { .reg .v2 .f32 %v; }", "vectors"),
        (HEAD + ".func f () { call f; }\n.entry kernel () { call f; }", "f calls itself"),
        (HEAD + ".extern .func malloc ();\n.entry kernel () { call malloc; }", "calls malloc"),
        (HEAD + ".entry kernel () { .reg .b64 %rd; call %rd, (), prototype; }", "through pointers"),
        (HEAD + ".func f () { ret; }\n.entry kernel () { .reg .b64 %rd; mov.b64 %rd, f; }", "takes the address of f"),
    ],
)
def test_errors_are_one_sentence(text, told):
    with pytest.raises(PtxError, match=told) as error:
        inline.flatten(ptx.parse(text), "kernel")
    assert "\n" not in str(error.value)


def test_cut_text_is_refused_or_read():
    ends = range(len(HELPER))
    refused = 0
    for end in ends:
        try:
            module = ptx.parse(HELPER[:end])
            for name in module.entries:
                program.assemble(inline.flatten(module, name), Opcodes(), lambda _: 0, {})
        except PtxError:
            refused += 1
    assert refused > 0.8 * len(ends)


def test_damaged_text_is_refused_or_read():
    choice = random.Random(0)
    for _ in range(1000):
        at, length = choice.randrange(len(HELPER)), choice.randrange(1, 12)
        text = (
            HELPER[:at] + choice.choice(["", "{", "}", ";", '"', "[", "\x00", "-", "0x", "."]) + HELPER[at + length :]
        )
        try:
            program.assemble(inline.flatten(ptx.parse(text), "kernel"), Opcodes(), lambda _: 0, {})
        except PtxError:
            pass


def test_inner_scopes_declare_anew():
    flat = flatten(".reg .b32 x; { .reg .b64 x; mov.b64 x, 1; } mov.b32 x, 2;")
    inner, outer = (statement.operands[0] for statement in flat.statements)
    assert inner != outer and (flat.registers[inner], flat.registers[outer]) == (8, 4)


def test_labels_belong_to_their_scope():
    flat = flatten("{ again: bra again; } { bra again; again: bra out; } out: ret;")
    first, second, third = (
        s.operands[0] for s in flat.statements if isinstance(s, inline.FlatInstruction) and s.operands
    )
    assert first != second and third == "out"


def test_functions_are_inlined():
    flat = inline.flatten(ptx.parse(HELPER), "kernel")
    texts = [f"{s.opcode} {s.operands}" for s in flat.statements if isinstance(s, inline.FlatInstruction)]
    assert texts[:3] == [
        "st.param.b32 ['[argument+0]', '%r1']", "ld.param.b32 ['%r1$2', '[argument]']", "mov.b32 ['%r2$2', 'scratch']",
    ]  # fmt: skip
    assert list(flat.shared) == ["scratch"], "a shared variable is there once, however often its function is inlined"
    assert [s.opcode for s in flat.statements if isinstance(s, inline.FlatInstruction)].count("bra") == 2, (
        "returns are branches"
    )
    assert set(flat.local) == {"argument", "result", "argument$2", "result$2"}


def test_arguments_in_registers():
    before = ".func (.reg .b32 y) f (.reg .b32 x) { add.s32 y, x, 1; ret; }"
    flat = flatten(".reg .b32 a, b; call (a), f, (b);", before)
    instructions = [s for s in flat.statements if isinstance(s, inline.FlatInstruction)]
    assert [(i.opcode, i.operands) for i in instructions] == [
        ("mov.b32", ["x", "b"]), ("add.s32", ["y", "x", "1"]), ("bra", ["return"]), ("mov.b32", ["a", "y"]),
    ]  # fmt: skip


def test_a_guarded_call_is_jumped_over():
    flat = flatten(".reg .pred p; @p call f;", ".func f () { trap; }")
    assert (flat.statements[0].opcode, flat.statements[0].guard, flat.statements[0].negated) == ("bra", "p", True)


def test_built_in_functions():
    before = ".extern .func (.param .b32 r) vprintf (.param .b64 f, .param .b64 a);\n"
    before += ".extern .func __assertfail (.param .b64 m);"
    body = ".param .b64 x; .param .b32 r; call (r), vprintf, (x, x); call __assertfail, (x);"
    assert [s.opcode for s in flatten(body, before).statements if isinstance(s, inline.FlatInstruction)] == [
        "st.local.b32", "trap.assert",
    ]  # fmt: skip


def test_sources():
    before = '.file 1 "a.cu"\n.file 2 "b.h"\n.file 3 "c.h"'
    body = """
    .reg .b32 %r; .loc 1 5 0
    mov.b32 %r, 1;
    .loc 1 0 0
    mov.b32 %r, 2;
    .loc 2 8 3, function_name $L__info_string0, inlined_at 1 5 9
    mov.b32 %r, 3;
    .loc 3 9 1, function_name $L__info_string1, inlined_at 2 8 3
    mov.b32 %r, 4;
    """
    texts = Assembled(body, before).program.texts
    assert [text.source for text in texts] == [
        "a.cu:5", "a.cu:5", "b.h:8, inlined at a.cu:5", "c.h:9, inlined at a.cu:5",
    ]  # fmt: skip
    assert texts[3].ptx == "mov.b32 %r, 4"


def test_source_of_an_inlined_function():
    module = ptx.parse(HELPER)
    texts = program.assemble(inline.flatten(module, "kernel"), Opcodes(), lambda _: 0, {}).texts
    assert ("ld.param.b32 %r1, [in]", "helper.h:7, inlined at kernel.cu:3") in texts
