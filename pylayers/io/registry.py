"""The classes and functions that a model file may name, and the arguments that build a module again.

Only what stands here is ever built; a name in a file is looked up here and nowhere else.
"""

import inspect
import types
from collections.abc import Callable
from typing import Any

from torch import nn

from . import classes

# Stands in a config for the device that the net is loaded to.
HERE = object()

_by_name: dict[str, Any] = {}
_names: dict[Any, str] = {}
_configs: dict[type, Callable[[nn.Module], dict]] = {}
_built_in: set[type] = set()

Arguments = tuple[list, dict[str, Any]]


def register(cls: Any = None, name: str | None = None, config: Callable[[nn.Module], dict[str, Any]] | None = None) -> Any:
    """Lets `save_model` and `load_model` write and build modules of a class of yours. A decorator, with or without arguments.

    The arguments that build a module again are, in this order of preference, what `config(module)` returns, what a method
    `config()` of the class returns, or what the module keeps: every argument of the constructor in an attribute of the same name,
    as torch.nn's layers do. Of an argument that is a bool and whose attribute is a parameter (`bias`), the file keeps whether the
    parameter is there. `device` and `dtype` are left out unless they are kept, and then device is the one that is loaded to;
    arguments with a leading underscore and a default are left out. `*args` and `**kwargs` are looked for in the same way, and
    may be kept as a ModuleList or ModuleDict.

    A registered class is trusted: its constructor is called with whatever arguments a file holds. Functions and classes that are
    arguments themselves (`activation=my_function`) must be registered too.

    Args:
        cls: a Module class, or a function or class that is given to constructors.
        name: what files call it; its `__name__` if None.
        config: from a module to the keyword arguments that build it.

    Returns: cls.

    Raises:
        ValueError: the name belongs to something else.
        TypeError: cls is neither a class nor a function.

    Example:
        >>> @pylayers.io.register
        ... class Scale(nn.Module):
        ...     def __init__(self, factor):
        ...         super().__init__()
        ...         self.factor = factor
    """
    if cls is None:
        return lambda given: register(given, name, config)
    if not isinstance(cls, (type, types.FunctionType, types.BuiltinFunctionType)):
        raise TypeError(f"register: cls must be a class or a function, got {type(cls).__name__}")
    name = cls.__name__ if name is None else name
    _load_own()
    taken = _by_name.get(name)
    if taken is not None and taken is not cls and not _same_definition(taken, cls):
        owner = f"{taken.__module__}.{taken.__qualname__}"
        raise ValueError(f"register: the name {name!r} belongs to {owner}: give another one with name=")
    _names.pop(_by_name.get(name), None)
    _by_name.pop(_names.get(cls), None)
    _add(cls, name, config)
    return cls


def _same_definition(one: Any, other: Any) -> bool:
    """A notebook cell that was run again."""
    return (one.__module__, one.__qualname__) == (other.__module__, other.__qualname__)


def _add(value: Any, name: str, config: Callable | None = None) -> None:
    _by_name[name] = value
    _names[value] = name
    if config is not None:
        _configs[value] = config


def _load_own() -> None:
    """torch.nn's classes and the package's own, once; the package is whole only after this module was imported."""
    if _by_name:
        return
    import pylayers

    from ..modules.gated_mlp import LazyOutput

    for cls, config in classes.classes():
        _add(cls, f"torch.nn.{cls.__name__}", config)
    for name in pylayers.__all__:
        value = vars(pylayers).get(name)
        if isinstance(value, type) and issubclass(value, nn.Module):
            _add(value, f"pylayers.{name}", classes.OWN.get(name))
    _add(LazyOutput, "pylayers.LazyOutput")  # within LazyGatedMLP
    _built_in.update(one for one in _names if isinstance(one, type))
    for name, function in classes.functions():
        _add(function, name)


def name_of(value: Any) -> str | None:
    _load_own()
    try:
        return _names.get(value)
    except TypeError:  # not hashable
        return None


def find(name: str) -> Any:
    """What is registered under the name, or None."""
    _load_own()
    return _by_name.get(name)


def is_built_in(cls: type) -> bool:
    return cls in _built_in


def arguments(module: nn.Module) -> Arguments:
    """The positional and keyword arguments that build the module again."""
    cls = type(module)
    config = _configs.get(cls)
    if config is None and callable(getattr(cls, "config", None)):
        config = cls.config
    if config is None:
        return _kept(module)
    found = config(module)
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise TypeError(f"the config of {cls.__name__} must be a dict with the constructor's arguments by name, got {found!r}")
    return [], found


def _kept(module: nn.Module) -> Arguments:
    cls = type(module)
    if cls.__init__ in (nn.Module.__init__, nn.Sequential.__init__, nn.ModuleList.__init__, nn.ModuleDict.__init__):
        return [], {}  # the children say everything
    positional: list = []
    keywords: dict[str, Any] = {}
    given = list(inspect.signature(cls.__init__).parameters.values())[1:]
    of_torch = cls in _built_in and cls.__module__.startswith("torch.")  # other versions may have fewer arguments
    listed = any(one.kind is one.VAR_POSITIONAL for one in given)
    for one in given:
        if one.name in ("device", "dtype") and one.default is not one.empty and one.name not in vars(module):
            continue
        if one.name.startswith("_") and one.default is not one.empty:
            continue
        value = HERE if one.name == "device" else _attribute(module, one)
        if of_torch and type(value) is type(one.default) and value == one.default:
            continue
        if one.kind is one.VAR_POSITIONAL:
            positional += _children(value, (nn.ModuleList, nn.Sequential), module, one)
        elif one.kind is one.VAR_KEYWORD:
            keywords.update(_children(value, (nn.ModuleDict,), module, one))
        elif one.kind is one.POSITIONAL_ONLY or (listed and one.kind is one.POSITIONAL_OR_KEYWORD):
            positional.append(value)
        else:
            keywords[one.name] = value
    return positional, keywords


def _children(value: Any, containers: tuple, module: nn.Module, argument: inspect.Parameter) -> Any:
    if argument.kind is argument.VAR_KEYWORD:
        return dict(value.items()) if isinstance(value, (dict, *containers)) else _missing(module, argument)
    return list(value) if isinstance(value, (list, tuple, *containers)) else _missing(module, argument)


def _attribute(module: nn.Module, argument: inspect.Parameter) -> Any:
    name = argument.name
    if name in module._parameters and (type(argument.default) is bool or argument.annotation in (bool, "bool")):
        return module._parameters[name] is not None
    for place in (vars(module), module._parameters, module._buffers, module._modules):
        if name in place:
            return place[name]
    value = getattr(module, name, _missing)  # a property, or an attribute of the class
    return _missing(module, argument) if value is _missing or isinstance(value, types.MethodType) else value


def _missing(module: nn.Module, argument: inspect.Parameter) -> Any:
    cls, name = type(module).__name__, argument.name
    star = {argument.VAR_POSITIONAL: "*", argument.VAR_KEYWORD: "**"}.get(argument.kind, "")
    raise ValueError(
        f"the argument {star}{name} of {cls} is not found: keep it as self.{name}, give {cls} a method config() that returns the "
        f"constructor's arguments, or register it with config="
    )
