"""A kernel with the functions that it calls -> one flat list of instructions, in which every name means one thing."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple

from .body import Close, Instruction, Label, Location, Open, Registers, Targets, parse_body
from .declarations import Parameter, Variable
from .ptx import Function, Module
from .syntax import IDENTIFIER, PtxError, literal

MOST_STATEMENTS = 2_000_000  # functions that call functions twice, twice, twice...

_NAME = re.compile(rf"(?<![\w$%.]){IDENTIFIER}(?:\.[xyzw]\b)?")


class Source(NamedTuple):
    """A line of what was compiled, and the one in the kernel itself at which the compiler or we inlined it."""

    file: str = ""
    line: int = 0
    caller: Source | None = None


class FlatInstruction(NamedTuple):
    opcode: str
    operands: list[str]
    guard: str | None
    negated: bool
    text: str
    source: Source


@dataclass
class FlatKernel:
    name: str
    parameters: list[Parameter]
    directives: dict[str, tuple[int, ...]]
    statements: list[FlatInstruction | Label] = field(default_factory=list)
    registers: dict[str, int] = field(default_factory=dict)  # bytes of a lane's value
    local: dict[str, Variable] = field(default_factory=dict)
    shared: dict[str, Variable] = field(default_factory=dict)
    globals: set[str] = field(default_factory=set)  # variables of the module in .global and .const that are used
    specials: set[str] = field(default_factory=set)  # "%tid.x"
    tables: dict[str, list[str]] = field(default_factory=dict)  # labels of .branchtargets


def flatten(module: Module, entry: str) -> FlatKernel:
    function = module.functions.get(entry)
    if function is None or function.kind != "entry" or function.body is None:
        raise PtxError(f"there is no kernel {entry}; kernels are {', '.join(module.entries) or 'none'}")
    flat = FlatKernel(entry, function.parameters, function.directives)
    names = {parameter.name: parameter.name for parameter in function.parameters}
    taken = set(names) | {variable.name for variable in module.variables} | set(module.functions)
    _Frame(_Common(module, flat, taken), function, names).run()
    return flat


@dataclass
class _Common:
    """What all frames share."""

    module: Module
    flat: FlatKernel
    taken: set[str]
    statics: dict[tuple[str, str], str] = field(default_factory=dict)  # shared variables of (function, name)
    running: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.variables = {variable.name: variable for variable in self.module.variables}

    def unique(self, name: str) -> str:
        result, number = name, 1
        while result in self.taken:
            number += 1
            result = f"{name}${number}"
        self.taken.add(result)
        return result

    def new_register(self, name: str, size: int) -> str:
        result = self.unique(name)
        self.flat.registers[result] = size
        return result

    def new_local(self, variable: Variable) -> str:
        result = self.unique(variable.name)
        self.flat.local[result] = variable
        return result


class _Frame:
    """A function whose statements are being written out."""

    def __init__(self, common: _Common, function: Function, names: dict[str, str], after: str | None = None,
                 caller: Source | None = None):  # fmt: skip
        self.common, self.flat, self.function = common, common.flat, function
        self.scopes = [names]
        self.after = after  # label that a return goes to; None in the kernel itself
        self.caller = caller
        self.source = Source(caller=caller)
        self.outer: dict[tuple[int, int, int], tuple[int, int, int]] = {}

    def run(self) -> None:
        if self.function.name in self.common.running:
            raise PtxError(f"{self.function.name} calls itself, which is not supported")
        self.common.running.append(self.function.name)
        for statement in parse_body(self.function.body):
            self.HANDLERS[type(statement)](self, statement)
        if len(self.flat.statements) > MOST_STATEMENTS:
            raise PtxError(f"{self.flat.name} is too long with its functions inlined")
        self.common.running.pop()

    def open(self, scope: Open) -> None:
        self.scopes.append({label: self.common.unique(label) for label in scope.labels})

    def close(self, _: Close) -> None:
        self.scopes.pop()

    def label(self, label: Label) -> None:
        self.flat.statements.append(Label(self.name(label.name)))

    def targets(self, targets: Targets) -> None:
        label = self.flat.statements.pop() if self.flat.statements else None
        if not isinstance(label, Label):
            raise PtxError(".branchtargets without a label")
        self.flat.tables[label.name] = [self.name(target) for target in targets.labels]

    def location(self, location: Location) -> None:
        if not location.line:  # the compiler's own code
            return
        key = location[:3]
        if location.inlined_at:
            self.outer[key] = location.inlined_at
        else:
            self.outer.pop(key, None)
        caller = self.caller
        for _ in range(len(self.outer)):
            if key not in self.outer:
                break
            key = self.outer[key]
            caller = Source(self.file(key[0]), key[1])
        self.source = Source(self.file(location.file), location.line, caller)

    def file(self, number: int) -> str:
        return self.common.module.files.get(number, "")

    def registers(self, registers: Registers) -> None:
        scope = self.scopes[-1]
        for name in registers.names:
            scope[name] = self.common.new_register(name, registers.size)

    def variables(self, variables: list[Variable]) -> None:
        for variable in variables:
            if variable.space in ("local", "param"):
                self.scopes[-1][variable.name] = self.common.new_local(variable)
            elif variable.space == "shared":
                self.scopes[-1][variable.name] = self.static_shared(variable)
            else:
                raise PtxError(f".{variable.space} {variable.name} inside of a function is not supported")

    def static_shared(self, variable: Variable) -> str:
        """A function that is inlined twice has its shared variables once."""
        key = self.function.name, variable.name
        if key not in self.common.statics:
            self.common.statics[key] = self.common.unique(variable.name)
            self.flat.shared[self.common.statics[key]] = variable
        return self.common.statics[key]

    def name(self, name: str) -> str:
        """What the name means here, under its name in the flat kernel."""
        for scope in reversed(self.scopes):
            if name in scope:
                return scope[name]
        return name if name == "_" else self.outside_name(name)

    def outside_name(self, name: str) -> str:
        variable = self.common.variables.get(name)
        if variable and variable.space == "shared":
            self.flat.shared[name] = variable
        elif variable:
            self.flat.globals.add(name)
        elif name.startswith("%"):
            self.flat.specials.add(name)
        elif name == "WARP_SZ":
            return "32"
        elif name in self.common.module.functions:
            raise PtxError(
                f"{self.function.name} takes the address of {name}; calls through pointers are not supported"
            )
        else:
            raise PtxError(f"unknown name {name} in {self.function.name}")
        return name

    def resolve(self, operand: str) -> str:
        return _NAME.sub(lambda found: self.name(found[0]), operand)

    def emit(
        self, opcode: str, operands: list[str], text: str, guard: str | None = None, negated: bool = False
    ) -> None:
        self.flat.statements.append(FlatInstruction(opcode, operands, guard, negated, text, self.source))

    def instruction(self, instruction: Instruction) -> None:
        opcode, operands, guard, negated, text = instruction
        guard = self.name(guard) if guard else None
        kind = opcode.split(".", 1)[0]
        if kind == "call":
            self.guarded_call(instruction, guard)
        elif kind == "ret" and self.after:
            self.emit("bra", [self.after], text, guard, negated)
        else:
            self.emit(opcode, [self.resolve(operand) for operand in operands], text, guard, negated)

    def guarded_call(self, instruction: Instruction, guard: str | None) -> None:
        after = self.common.unique("after_call")
        if guard:
            self.emit("bra", [after], instruction.text, guard, not instruction.negated)
        operands = list(instruction.operands)
        returns = _inside(operands.pop(0)) if operands and operands[0].startswith("(") else []
        name = operands.pop(0) if operands else ""
        arguments = _inside(operands.pop(0)) if operands and operands[0].startswith("(") else []
        callee = self.common.module.functions.get(name)
        if operands or callee is None:
            raise PtxError(f"calls through pointers are not supported: {instruction.text}")
        self.call(callee, [self.resolve(x) for x in returns], [self.resolve(x) for x in arguments], after, instruction)
        self.flat.statements.append(Label(after))

    def call(self, callee: Function, returns: list[str], arguments: list[str], after: str, instruction: Instruction):
        text = instruction.text
        if callee.name == "vprintf":  # nothing is printed
            for variable in returns:
                self.emit("st.local.b32", [f"[{variable}]", "0"], text)
        elif callee.name == "__assertfail":
            self.emit("trap.assert", [], text)
        elif callee.body is None:
            raise PtxError(f"{self.function.name} calls {callee.name}, which is not in the module and not built in")
        else:
            if (len(returns), len(arguments)) != (len(callee.returns), len(callee.parameters)):
                raise PtxError(f"the arguments do not fit the function: {text}")
            names, late = {}, []
            for formal, actual in zip(callee.parameters, arguments, strict=True):
                names[formal.name] = self.bind(formal, actual, instruction, None)
            for formal, actual in zip(callee.returns, returns, strict=True):
                names[formal.name] = self.bind(formal, actual, instruction, late)
            end = self.common.unique("return")
            _Frame(self.common, callee, names, end, Source(*self.source[:2])).run()
            self.flat.statements.append(Label(end))
            for opcode, operands in late:
                self.emit(opcode, operands, text)

    def bind(self, formal: Parameter, actual: str, call: Instruction, late: list | None) -> str:
        """The name of what stands for `formal` in the callee. A value is copied to it here, or from it after the call:
        that copy is added to `late`."""
        variable = self.flat.local.get(actual)
        if variable and formal.space == "param":
            if variable.size < formal.size:
                raise PtxError(f"{actual} is smaller than the parameter that it is passed for: {call.text}")
            return actual
        if formal.space == "reg":
            name, place = self.common.new_register(formal.name, formal.size), "{}"
            store = load = "mov.pred" if formal.size == 1 else f"mov.b{8 * formal.size}"
        else:
            parameter = Variable("param", formal.align, "b8", formal.name, formal.size, formal.size)
            name, place = self.common.new_local(parameter), "[{}]"
            store, load = f"st.local.b{8 * formal.size}", f"ld.local.b{8 * formal.size}"
        if late is not None:
            late.append((load, [actual, place.format(name)]))
        elif actual in self.flat.registers or literal(actual, "b64") is not None:
            self.emit(store, [place.format(name), actual], call.text)
        else:
            raise PtxError(f"not an argument: {actual} in {call.text}")
        return name

    HANDLERS = {Open: open, Close: close, Label: label, Targets: targets, Location: location, Registers: registers,
                list: variables, Instruction: instruction}  # fmt: skip


def _inside(parentheses: str) -> list[str]:
    inner = parentheses[1:-1].strip()
    return [item.strip() for item in inner.split(",")] if inner else []
