"""`convert` and `revert`."""

from __future__ import annotations

import fnmatch
import sys
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from . import fusions
from .one import convert_one
from .report import ConversionReport
from .swap import Converted, restore

Choice = str | type | Callable[[str, nn.Module], bool]


def convert(
    model: nn.Module,
    *,
    include: Choice | Sequence[Choice] | None = None,
    exclude: Choice | Sequence[Choice] | None = None,
    verify: bool = True,
    fuse: bool = True,
) -> ConversionReport:
    r"""Gives the layers of a model our kernels, in place.

    Layers of torch.nn that we have are told by their class; root mean square norms and feed-forward modules of any name by what they
    compute. Each stays the object that it is: parameters, ties, names in state_dict, hooks, mode, dtype and device are as they were, and
    `isinstance` with its class holds. Under torch.compile, and for inputs that our kernels do not take, it does what it did before.

    Args:
        model: changed in place.
        include: what alone is converted, if given: names ("model.layers.*.mlp"), classes, or functions of name and module; or several.
        exclude: what is left alone, likewise.
        verify: whether every module is compared with its original first, outputs and gradients beside float64; one whose error is more
            than twice the original's is left alone.
        fuse: whether residual additions are put together with the norms behind them, norms with activations, the head with its cross
            entropy, and the rotary embedding of queries with that of keys.

    Returns: a report; `print` it.

    Raises:
        TypeError: model is no Module.
        ValueError: an entry of `include` that matches no module.
        RuntimeError: the model is compiled already, or is running.

    Equivalent to:
        >>> model  # with other kernels
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"convert: model must be a Module, got {type(model).__name__}")
    _check_idle("convert", model)
    chosen = _chosen(model, _as_list(include), _as_list(exclude))
    report = ConversionReport(model)
    for name, module in chosen:
        if reason := _obstacle(module):
            report.keep(name, module, reason)
        else:
            convert_one(name, module, verify, report)
    if fuse:
        fusions.put_together(model, dict(chosen), report)
    return report


def revert(model: nn.Module) -> None:
    """Makes every converted module of a model what it was.

    Raises:
        TypeError: model is no Module.
        RuntimeError: the model is running.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"revert: model must be a Module, got {type(model).__name__}")
    _check_idle("revert", model)
    for module in model.modules():
        while isinstance(module, Converted):
            restore(module)


# ---- which modules


def _as_list(choice: Choice | Sequence[Choice] | None) -> list[Choice] | None:
    return choice if choice is None else [choice] if isinstance(choice, str | type) or callable(choice) else list(choice)


def _matches(choice: Choice, name: str, module: nn.Module) -> bool:
    if isinstance(choice, str):
        return fnmatch.fnmatchcase(name, choice)
    return isinstance(module, choice) if isinstance(choice, type) else bool(choice(name, module))


def _chosen(model: nn.Module, include: list[Choice] | None, exclude: list[Choice] | None) -> list[tuple[str, nn.Module]]:
    """Names and modules, those inside before those around them."""
    named = list(model.named_modules())
    for choice in include or ():
        if not any(_matches(choice, *one) for one in named):
            raise ValueError(f"convert: include {choice!r} matches no module of {type(model).__name__}")

    def taken(name: str, module: nn.Module) -> bool:
        wanted = include is None or any(_matches(one, name, module) for one in include)
        return wanted and not any(_matches(one, name, module) for one in exclude or ())

    return [one for one in reversed(named) if taken(*one) and not _is_ours(one[1])]


def _is_ours(module: nn.Module) -> bool:
    """Whether it is a layer of this package, with nothing to gain."""
    return type(module).__module__.split(".")[0] == __name__.split(".")[0]


def _check_idle(name: str, model: nn.Module) -> None:
    modules = set(model.modules())
    for module in modules:
        compiled = isinstance(module, torch._dynamo.OptimizedModule) or getattr(module, "_compiled_call_impl", None) is not None
        if compiled:
            raise RuntimeError(f"{name}: {type(module).__name__} is compiled already: {name} the model first, then compile it")
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code is nn.Module._call_impl.__code__ and frame.f_locals.get("self") in modules:
            raise RuntimeError(f"{name}: the model is running (a hook, or a forward, calls {name}): call it before or after")
        frame = frame.f_back


def _obstacle(module: nn.Module) -> str:
    """Why a module cannot be touched, whatever it computes; empty if it can."""
    if isinstance(module, Converted):
        return "converted already"
    if isinstance(module, torch.jit.ScriptModule):
        return "is a ScriptModule"
    if torch.nn.utils.parametrize.is_parametrized(module):
        return "is parametrised"
    if "forward" in vars(module) and "_old_forward" not in vars(module):
        return "its forward was replaced on the object"
    for name, parameter in module.named_parameters(recurse=False):
        if type(parameter) not in (nn.Parameter, torch.nn.UninitializedParameter) or type(parameter.data) is not Tensor:
            return f"{name} is a {type(parameter).__name__}, whose layout is its own affair"
        if isinstance(parameter, torch.nn.UninitializedParameter):
            return f"{name} is not initialised yet"
        if not parameter.is_floating_point():
            return f"{name} is {parameter.dtype}"
    return ""
