"""Initialisation: the initialisers that layers take by name, one more of them, and what works on whole nets."""

from __future__ import annotations

import difflib
import functools
import inspect
import numbers
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

# What a layer takes as weight_init= or bias_init=: a name, (name, argument, …), or a function that writes to a tensor.
Initialiser = str | tuple | Callable[[Tensor], Any]


def two_sided_uniform_(
    tensor: Tensor, low: float = 5.0, high: float = 10.0, p_zero: float = 0.5, generator: torch.Generator | None = None
) -> Tensor:
    r"""Fills a tensor in place with zeros and with numbers of both signs that stay away from zero.

    .. math:: y = \begin{cases} 0 & \text{with probability } p_0 \\ \pm u, \; u \sim U[\text{low}, \text{high})
        & \text{else, both signs alike} \end{cases}

    One seed gives one value per element, by its index: the same bits on every backend and device, for any number of threads and
    any strides. Autograd sees a write and nothing else. A meta tensor is left alone.

    Args:
        tensor: to be filled.
        low, high: 0 ≤ low ≤ high. A number is rounded to nearest in the dtype of the tensor, which may give high itself.
        p_zero: probability of 0, counted in steps of 2⁻³¹.
        generator: of the CPU, where 64 bits are drawn for the seed, or of a CUDA device, whose state goes on by one step without
            waiting for the device. None is torch's default generator of the CPU, for tensors on any device: torch.manual_seed
            repeats the values. In a captured CUDA graph the seed is that of the capture.

    Returns:
        tensor.

    Shape: any.

    Dtypes: float64, float32, float16, bfloat16; drawn with 24 random bits in float32 (53 in float64), then rounded.

    Raises:
        TypeError: tensor is not a floating point tensor, or an argument has another type.
        ValueError: low, high or p_zero out of range.
        RuntimeError: the chosen backend cannot serve the device, or elements share memory.

    Source: Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, 2011, for Philox4x32-10.

    Equivalent to (in distribution):
        >>> sign = torch.randint(0, 2, tensor.shape) * 2 - 1
        >>> tensor.copy_(torch.empty_like(tensor).uniform_(low, high) * sign * (torch.rand(tensor.shape) >= p_zero))
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"two_sided_uniform_: tensor must be a Tensor, got {type(tensor).__name__}")
    for name, value in (("low", low), ("high", high), ("p_zero", p_zero)):
        if not isinstance(value, numbers.Real):
            raise TypeError(f"two_sided_uniform_: {name} must be a number, got {type(value).__name__}")
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"two_sided_uniform_: generator must be a torch.Generator, got {type(generator).__name__}")
    torch.ops.pylayers.two_sided_uniform_(tensor, float(low), float(high), float(p_zero), generator=generator)
    return tensor


# Every initialiser by its name with the underscore.
INITIALISERS: dict[str, Callable] = {
    **{name: one for name, one in vars(nn.init).items() if name.endswith("_") and name[0] != "_" and callable(one)},
    "two_sided_uniform_": two_sided_uniform_,
}


def resolve(chosen: Initialiser, what: str = "init") -> Callable[[Tensor], Any]:
    """The function that an initialiser stands for.

    Args:
        chosen: a name such as "xavier_uniform" or "xavier_uniform_", a tuple of a name and further arguments, or a function.
        what: begins the sentence of an error.

    Raises:
        ValueError: there is no such name; the sentence has those that are close to it.
        TypeError: it is something else, or the arguments do not fit.
    """
    given = (chosen,) if isinstance(chosen, str) else chosen
    if not isinstance(given, tuple):
        if callable(chosen):
            return chosen
    elif given and isinstance(given[0], str):
        return _by_name(*given, what=what)
    raise TypeError(
        f"{what} must be the name of an initialiser, a tuple of a name and its arguments, or a function of a tensor, got {chosen!r}"
    )


def _by_name(name: str, *arguments: Any, what: str) -> Callable[[Tensor], Any]:
    function = INITIALISERS.get(name.removesuffix("_") + "_")
    if function is None:
        names = [known.removesuffix("_") for known in INITIALISERS]
        close = difflib.get_close_matches(name.removesuffix("_"), names)
        hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"there are {', '.join(names)}"
        raise ValueError(f"{what}: there is no initialiser {name!r}; {hint}")
    try:
        inspect.signature(function).bind(None, *arguments)
    except TypeError as error:
        raise TypeError(f"{what}: {name} cannot take the arguments {arguments}: {error}") from None
    return lambda tensor: function(tensor, *arguments)


@torch.no_grad()
def initialise_(tensor: Tensor, chosen: Initialiser, what: str = "init") -> Tensor:
    """Fills a tensor in place by an initialiser, see `resolve`. Errors begin with `what`."""
    function = resolve(chosen, what)
    version = tensor._version
    try:
        result = function(tensor)
    except (ValueError, RuntimeError) as error:
        raise type(error)(f"{what}={describe(chosen)} cannot fill shape {tuple(tensor.shape)}: {error}") from error
    if isinstance(result, Tensor) and tensor._version == version and not _same_memory(result, tensor):
        raise ValueError(f"{what}={describe(chosen)} returned another tensor and did not write to the one it was given")
    return tensor


def _same_memory(one: Tensor, other: Tensor) -> bool:
    return one is other or one.untyped_storage()._cdata == other.untyped_storage()._cdata


def describe(chosen: Initialiser) -> str:
    """An initialiser in a word or two, for extra_repr."""
    if isinstance(chosen, (str, tuple)):
        return repr(chosen)
    if isinstance(chosen, functools.partial):
        given = [*map(repr, chosen.args), *(f"{name}={value!r}" for name, value in chosen.keywords.items())]
        return f"{describe(chosen.func)}({', '.join(given)})"
    return getattr(chosen, "__name__", type(chosen).__name__)


def _children_first(net: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module once, with its name, in the order of nn.Module.apply."""
    seen: set[nn.Module] = set()

    def visit(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
        if module in seen:
            return
        seen.add(module)
        for child_name, child in module.named_children():
            yield from visit(f"{name}.{child_name}" if name else child_name, child)
        yield name, module

    return visit("", net)


def _told(name: str, module: nn.Module) -> str:
    return f"{name} ({type(module).__name__})" if name else type(module).__name__


def _is_unknown(module: nn.Module) -> bool:
    """Whether the module has parameters or buffers of its own without a shape."""
    return any(is_lazy(one) for one in (*module._parameters.values(), *module._buffers.values()))


def apply_(net: nn.Module, function: Callable[[nn.Module], Any], types: type | tuple[type, ...]) -> list[str]:
    """Calls function(module), without gradients, on every module that is an instance of one of the types, subclasses included.

    Modules inside others come first, as in nn.Module.apply; a module that is there twice is called once.

    Returns:
        The names of the modules, "" for net itself.

    Raises:
        ValueError: there is no such module: nothing would have been initialised.
        RuntimeError: one of them does not know its shapes yet.
    """
    found = [(name, module) for name, module in _children_first(net) if isinstance(module, types)]
    if not found:
        wanted = ", ".join(one.__name__ for one in (types if isinstance(types, tuple) else (types,)))
        raise ValueError(f"apply_: no module of {type(net).__name__} is an instance of {wanted}")
    for name, module in found:
        if _is_unknown(module):
            raise RuntimeError(f"apply_: {_told(name, module)} has no shapes before data: use apply_init(net, example_input, init)")
    with torch.no_grad():
        for _, module in found:
            function(module)
    return [name for name, _ in found]


def reset_all(net: nn.Module) -> list[str]:
    """Calls reset_parameters of every module that has it, on any device; parameters stay the same objects.

    Modules inside others come first, so that a block may refine what its parts did. Lazy layers without shapes stay so.

    Returns:
        The names of the modules that have parameters of their own but no reset_parameters: these keep their values.
    """
    before = [(module, dict(module._parameters)) for module in net.modules()]
    kept = []
    for name, module in _children_first(net):
        if callable(getattr(module, "reset_parameters", None)):
            module.reset_parameters()
        elif any(one is not None for one in module._parameters.values()):
            kept.append(name)
    for module, parameters in before:
        for name, parameter in parameters.items():
            fresh = module._parameters[name]
            if fresh is not parameter and parameter is not None and fresh is not None:
                parameter.data.copy_(fresh.data)
                module._parameters[name] = parameter
    return kept


def apply_init(net: nn.Module, example_input: Any, init: Initialiser | Callable[[nn.Module], Any]) -> nn.Module:
    """Lets a lazy net know its shapes by a dry run, then initialises it.

    The dry run computes no gradients and leaves training modes, buffers (such as the statistics of batch normalisation) and the
    random state as they were. It runs in evaluation mode, and again in the net's own mode if that leaves layers without shapes. A
    net that knows its shapes is not run.

    Args:
        example_input: what net is called with: a tensor, a tuple of arguments, or a dict of keyword arguments.
        init: a function of a module, as for nn.Module.apply; or a name, a tuple of a name and its arguments, or an initialiser
            of torch.nn.init or a functools.partial of one, for all weights: parameters called weight… of two or more dimensions.

    Returns:
        net.

    Raises:
        RuntimeError: the example does not reach some layer.
        ValueError, TypeError: see `resolve`.

    Example:
        >>> net = nn.Sequential(pylayers.LazyLinear(64, activation="relu"), pylayers.LazyLinear(10))
        >>> pylayers.init.apply_init(net, torch.randn(2, 20), ("normal", 0.0, 0.01))
    """
    of_tensors = isinstance(init, (str, tuple)) or getattr(init, "func", init) in INITIALISERS.values()
    if of_tensors or not callable(init):
        resolve(init, "apply_init: init")
    if any(map(_is_unknown, net.modules())):
        _dry_run(net, example_input)
    if not of_tensors:
        with torch.no_grad():
            return net.apply(init)
    for name, parameter in net.named_parameters():
        if "weight" in name.rpartition(".")[2] and parameter.dim() > 1:
            initialise_(parameter, init, f"apply_init: {name}: init")
    return net


def _dry_run(net: nn.Module, example: Any) -> None:
    keywords = dict(example) if isinstance(example, Mapping) else {}
    arguments = example if isinstance(example, tuple) else () if keywords else (example,)
    with _state_kept(net) as modes, torch.no_grad():
        for evaluating in (True, False):
            for module, training in modes:
                module.training = training and not evaluating
            net(*arguments, **keywords)
            if not any(map(_is_unknown, net.modules())):
                return
    missed = ", ".join(_told(name, module) for name, module in net.named_modules() if _is_unknown(module))
    raise RuntimeError(f"apply_init: example_input does not reach {missed}, whose shapes stay unknown")


@contextmanager
def _state_kept(net: nn.Module) -> Iterator[list[tuple[nn.Module, bool]]]:
    """Puts back modes, buffers and the random state at the end. Gives the modes."""
    modes = [(module, module.training) for module in net.modules()]
    buffers: list[tuple[nn.Module, str, Tensor, Tensor]] = []

    def keep(module: nn.Module, *_: Any) -> None:
        known = ((name, one) for name, one in module._buffers.items() if one is not None and not is_lazy(one))
        buffers.extend((module, name, one, one.clone()) for name, one in known)

    # A lazy buffer is kept as soon as it has its first values: this hook runs after the one that gives them.
    hooks = [module.register_forward_pre_hook(keep) for module, _ in modes if _is_unknown(module)]
    for module, _ in modes:
        keep(module)
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(devices=devices):
            yield modes
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes:
            module.training = training
        for module, name, buffer, value in reversed(buffers):  # the earliest value is put back last
            with torch.no_grad():
                buffer.copy_(value)
            module._buffers[name] = buffer
