"""A forward with some of its calls put together: the code of the class, read, changed where two steps are one kernel of ours, compiled.

Residual addition and norm, norm and activation, rotary embedding. What the new code calls decides anew at each call whether the layers are
ours (see `fused`), and under torch.compile the original code runs, which Inductor fuses by itself.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping, Set
from functools import wraps
from types import CellType, FunctionType

import torch
from torch import nn

from . import fused

_ADD_NORM, _ROTARY = "__pylayers_add_norm", "__pylayers_rotary"
_WITH_ACTIVATION = {"norm": "__pylayers_norm_activation", "linear": "__pylayers_linear_activation"}


def _own_call(node: ast.AST) -> ast.Attribute | None:
    """`self.name` of a call self.name(one argument)."""
    if isinstance(node, ast.Call) and len(node.args) == 1 and not node.keywords and isinstance(node.func, ast.Attribute):
        if isinstance(node.func.value, ast.Name) and node.func.value.id == "self":
            return node.func
    return None


def _assigned(statement: ast.stmt) -> str | None:
    """The name of `name = …`."""
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1 and isinstance(statement.targets[0], ast.Name):
        return statement.targets[0].id
    return None


def _call(name: str, *arguments: ast.expr) -> ast.Call:
    return ast.Call(ast.Name(name, ast.Load()), list(arguments), [])


class _Replace(ast.NodeTransformer):
    """One node by another."""

    def __init__(self, old: ast.AST, new: ast.AST):
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.old else super().generic_visit(node)


class Rewriter:
    """Changes the body of a forward.

    Attributes:
        fusions: what was put together, in words.
    """

    def __init__(self, kinds: Mapping[str, str], rotaries: Set[str]):
        """Which attributes of self are a "norm", a "linear" or an "activation", and which global functions turn queries and keys."""
        self.kinds, self.rotaries = kinds, rotaries
        self.fusions: list[str] = []

    def is_norm(self, name: str) -> bool:
        return self.kinds.get(name) == "norm"

    def function(self, body: ast.FunctionDef) -> None:
        for block in list(_blocks(body)):
            self._additions(block)
            self._activations(block)
        self._activations_of_calls(body)
        self._rotary(body)
        self._norms_of_sums(body)

    def _additions(self, block: list[ast.stmt]) -> None:
        """`s = a + b`, perhaps `t = s`, and a statement with self.norm(s)."""
        for index, statement in enumerate(block):
            name = _assigned(statement)
            if name is None or not isinstance(statement.value, ast.BinOp) or not isinstance(statement.value.op, ast.Add):
                continue
            for later in block[index + 1 :]:
                call = next((node for node in _evaluated(later) if _own_call(node) and _is_name(node.args[0], name)), None)
                if call is not None and self.is_norm(call.func.attr):
                    self._fuse_addition(statement, later, call)
                if call is not None or not (_assigned(later) not in (None, name) and isinstance(later.value, ast.Name)):
                    break

    def _fuse_addition(self, statement: ast.Assign, later: ast.stmt, call: ast.Call) -> None:
        name, normed = statement.targets[0].id, f"__normed_{len(self.fusions)}"
        self.fusions.append(f"addition and {call.func.attr}")
        sum_, norm = statement.value, call.func
        statement.value = _call(_ADD_NORM, norm, sum_.left, sum_.right)
        statement.targets = [ast.Tuple([ast.Name(normed, ast.Store()), ast.Name(name, ast.Store())], ast.Store())]
        _Replace(call, ast.Name(normed, ast.Load())).visit(later)

    def _norms_of_sums(self, body: ast.FunctionDef) -> None:
        """self.norm(a + b)."""
        for node in [one for one in ast.walk(body) if _own_call(one) and self.is_norm(one.func.attr)]:
            total = node.args[0]
            if isinstance(total, ast.BinOp) and isinstance(total.op, ast.Add):
                both = _call(_ADD_NORM, node.func, total.left, total.right)
                _Replace(node, ast.Subscript(both, ast.Constant(0), ast.Load())).visit(body)
                self.fusions.append(f"addition and {node.func.attr}")

    def _activations(self, block: list[ast.stmt]) -> None:
        """`x = self.norm(…)`, or self.linear, then `x = self.activation(x)`."""
        for first, second in list(zip(block, block[1:], strict=False)):
            name = _assigned(first)
            if name is None or _assigned(second) != name:
                continue
            inner, outer = _own_call(first.value), _own_call(second.value)
            if inner is not None and outer is not None and _is_name(second.value.args[0], name) and self._goes_with(inner, outer):
                first.value = self._with_activation(first.value, inner, outer)
                block.remove(second)

    def _activations_of_calls(self, body: ast.FunctionDef) -> None:
        """self.activation(self.linear(…))."""
        for node in [one for one in ast.walk(body) if _own_call(one) and _own_call(one.args[0])]:
            inner, outer = _own_call(node.args[0]), _own_call(node)
            if self._goes_with(inner, outer):
                _Replace(node, self._with_activation(node.args[0], inner, outer)).visit(body)

    def _goes_with(self, inner: ast.Attribute, outer: ast.Attribute) -> bool:
        return self.kinds.get(inner.attr) in _WITH_ACTIVATION and self.kinds.get(outer.attr) == "activation"

    def _with_activation(self, call: ast.Call, inner: ast.Attribute, outer: ast.Attribute) -> ast.Call:
        self.fusions.append(f"{inner.attr} and {outer.attr}")
        return _call(_WITH_ACTIVATION[self.kinds[inner.attr]], inner, outer, call.args[0])

    def _rotary(self, body: ast.FunctionDef) -> None:
        for node in ast.walk(body):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in self.rotaries and len(node.args) >= 4:
                self.fusions.append(node.func.id)
                node.args.insert(0, node.func)
                node.func = ast.Name(_ROTARY, ast.Load())


def _is_name(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _blocks(body: ast.AST) -> Iterator[list[ast.stmt]]:
    """Every list of statements that run one after the other."""
    for node in ast.walk(body):
        for field in ("body", "orelse", "finalbody"):
            block = getattr(node, field, None)
            if isinstance(block, list) and block and isinstance(block[0], ast.stmt):
                yield block


def _evaluated(statement: ast.stmt) -> Iterator[ast.AST]:
    """What a plain statement computes, whatever happens."""
    if isinstance(statement, ast.Assign | ast.Return | ast.Expr | ast.AugAssign) and statement.value is not None:
        conditional = (ast.IfExp, ast.BoolOp, ast.Lambda, ast.ListComp, ast.GeneratorExp, ast.DictComp, ast.SetComp)
        todo = [statement.value]
        while todo:
            node = todo.pop()
            if not isinstance(node, conditional):
                yield node
                todo.extend(ast.iter_child_nodes(node))


def _compiled(function: FunctionType, definition: ast.FunctionDef, first_line: int) -> FunctionType:
    """The changed code beside the globals and the closure of the original, line for line where it was."""
    helpers = {_ADD_NORM: fused.add_norm, _ROTARY: fused.rotary}
    helpers |= {name: getattr(fused, f"{kind}_activation") for kind, name in _WITH_ACTIVATION.items()}
    names = [*helpers, *function.__code__.co_freevars]
    arguments = ast.arguments(posonlyargs=[], args=[ast.arg(name) for name in names], kwonlyargs=[], kw_defaults=[], defaults=[])
    factory = ast.FunctionDef("__factory", arguments, [definition], [], **({"type_params": []} if hasattr(ast, "TypeAlias") else {}))
    tree = ast.fix_missing_locations(ast.Module([factory], []))
    ast.increment_lineno(tree, first_line - 1)
    outer = next(one for one in compile(tree, function.__code__.co_filename, "exec").co_consts if inspect.iscode(one))
    code = next(one for one in outer.co_consts if inspect.iscode(one) and one.co_name == definition.name)
    cells = {**dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)), **{name: CellType(one) for name, one in helpers.items()}}
    made = FunctionType(code, function.__globals__, function.__name__, function.__defaults__, tuple(cells[name] for name in code.co_freevars))
    made.__kwdefaults__, made.__annotations__, made.__doc__ = function.__kwdefaults__, function.__annotations__, function.__doc__
    return made


def own_forward(cls: type[nn.Module]) -> FunctionType:
    """The forward that a class was written with, where its base wraps the forwards of its subclasses: they will wrap the changed one."""
    def probe(self):
        pass

    function = cls.forward
    again = type("Probe", (cls,), {"forward": probe}).forward
    if again is not probe and getattr(again, "__code__", None) is getattr(function, "__code__", 0):
        return inspect.unwrap(function, stop=lambda one: one.__code__ is not again.__code__)
    return function


def definition_of(function: FunctionType) -> tuple[ast.FunctionDef, int] | str:
    """The code of a forward and the line that it starts in; or why it cannot be read."""
    if not isinstance(function, FunctionType) or hasattr(function, "__wrapped__"):
        return "its forward is wrapped"
    try:
        lines, first = inspect.getsourcelines(function)
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, SyntaxError, TypeError):
        return "the code of its forward is not at hand"
    definition = tree.body[0]
    if not isinstance(definition, ast.FunctionDef) or definition.name != function.__code__.co_name:
        return "its forward is not a plain function"
    definition.decorator_list, definition.returns = [], None
    for argument in ast.walk(definition.args):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    return definition, first


def _is_private(node: ast.AST) -> bool:
    """Names that a class changes when it is compiled."""
    name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    return name.startswith("__") and not name.endswith("__")


def rewritten(original: type[nn.Module], rewriter: Rewriter) -> type | str:
    """Something to put before the class, with the changed forward; or why there is nothing to change."""
    function = own_forward(original)
    found = definition_of(function)
    if isinstance(found, str):
        return found
    definition, first_line = found
    if any(_is_private(node) for node in ast.walk(definition)):
        return "the code of its forward has private names"
    rewriter.function(definition)
    return _mixin(original, function, _compiled(function, definition, first_line)) if rewriter.fusions else "nothing to put together"


def _mixin(original: type[nn.Module], plain: FunctionType, changed: FunctionType) -> type:
    @wraps(plain)
    def forward(self, *arguments, **named):
        return (plain if torch.compiler.is_compiling() else changed)(self, *arguments, **named)

    return type(original.__name__, (), {"forward": forward, "__module__": __name__})
