"""What the tests of the front end share: programs with their instructions written out."""

from pylayers.emulator import inline, program, ptx

HEAD = ".version 8.0\n.target sm_80\n.address_size 64\n"


def flatten(body, before="", parameters=".param .u64 data, .param .u32 count"):
    return inline.flatten(
        ptx.parse(f"{HEAD}{before}\n.visible .entry kernel({parameters})\n{{\n{body}\n}}\n"), "kernel"
    )


class Opcodes(dict):
    """Knows every name but those with "unknown" in them."""

    def __call__(self, name):
        return -1 if "unknown" in name else self.setdefault(name, len(self))


class Assembled:
    """A program with its instructions written out."""

    def __init__(self, body, before="", addresses=None, **kwargs):
        ids, specials = Opcodes(), []
        self.flat = flatten(body, before, **kwargs)
        self.program = program.assemble(
            self.flat, ids, lambda name: specials.append(name) or len(specials) - 1, addresses or {}
        )
        names = {number: name for name, number in ids.items()}
        self.specials = dict(zip(specials, self.program.specials.tolist(), strict=True))
        self.rows = []
        for opcode, guard, negated, first, count, strong, _, _ in self.program.instructions.tolist():
            operands = self.program.operands[first : first + count].tolist()
            self.rows.append((names[opcode], operands, guard, negated, strong))

    def opcodes(self):
        return [row[0] for row in self.rows]

    def row(self, opcode):
        return next(row for row in self.rows if row[0] == opcode)

    def operands(self, opcode):
        return self.row(opcode)[1]
