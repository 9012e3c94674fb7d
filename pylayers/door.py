"""The one place where a public function chooses its way into an op."""

import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch.overrides import has_torch_function, has_torch_function_variadic

from . import backends, reference
from .library import doors

# Only Dynamo needs another way: whatever else traces a call sees the op through the dispatcher.
_is_compiling = torch.compiler.is_dynamo_compiling


def _explain(name: str, op: Callable, arguments: tuple, error: TypeError) -> TypeError:
    """Says in a sentence which argument has the wrong type, where pybind11 lists signatures."""
    expected = op.default._schema.arguments
    for argument, value in zip(expected, arguments, strict=True):
        kind = str(argument.type)
        if value is None and kind.startswith("Optional"):
            continue
        if kind.startswith("List") and "Tensor" in kind:
            if problem := _explain_list(name, argument.name, kind, value):
                return TypeError(problem)
        elif "Tensor" in kind and not isinstance(value, torch.Tensor):
            return TypeError(f"{name}: {argument.name} must be a Tensor, got {type(value).__name__}")
    if "incompatible function arguments" not in str(error):
        return error
    given = ", ".join(f"{one.name}={type(value).__name__}" for one, value in zip(expected, arguments, strict=True))
    wanted = ", ".join(f"{one.name}: {one.type}" for one in expected)
    return TypeError(f"{name}: the arguments must be ({wanted}), got {given}")


def _explain_list(op: str, name: str, kind: str, values: Any) -> str:
    if not isinstance(values, list | tuple):
        return f"{op}: {name} must be a list of Tensors, got {type(values).__name__}"
    for index, value in enumerate(values):
        if not isinstance(value, torch.Tensor) and not (value is None and "Optional" in kind):
            return f"{op}: {name}[{index}] must be a Tensor, got {type(value).__name__}"
    return ""


def _overridden(*arguments: Any) -> bool:
    """Whether an argument, or a tensor in a list of them, is of a subclass that wants to see the call."""
    if has_torch_function_variadic(*arguments):
        return True
    return any(isinstance(one, list) and has_torch_function(one) for one in arguments)


def _learn_shards(arguments: tuple) -> bool:
    """Whether DTensor met our ops for the first time, and knows them now."""
    module = f"{__package__}.distributed"
    if module in sys.modules or not any(type(one).__name__ == "DTensor" for one in arguments):
        return False
    importlib.import_module(module)
    return True


def door(name: str, doors: ModuleType = doors, library: str = "pylayers", reference: ModuleType = reference) -> Callable:
    """The op as a function of positional arguments. A package with kernels of its own gives its pybind11 module, the name that
    it gave to TORCH_LIBRARY, and the module that defines its ops in plain PyTorch.

    pybind11 is the shortest way (design: a tiny op costs a microsecond). Dynamo cannot trace it and subclasses of Tensor are not
    seen by it, so these take `torch.ops`.
    """
    native = getattr(doors, name)
    op = getattr(getattr(torch.ops, library), name)
    takes_lists = any(str(one.type).startswith("List") and "Tensor" in str(one.type) for one in op.default._schema.arguments)
    overridden = _overridden if takes_lists else has_torch_function_variadic
    definition = getattr(reference, name)

    def call(*arguments):
        if _is_compiling():
            return definition(*arguments) if backends.choice == "reference" else op(*arguments)
        if overridden(*arguments):
            return op(*arguments)
        try:
            return native(*arguments)
        except TypeError as error:
            raise _explain(name, op, arguments, error) from None
        except NotImplementedError:
            if not _learn_shards(arguments):
                raise
            return native(*arguments)

    return call
