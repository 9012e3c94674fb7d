"""Towers of blocks, and parameters found by the pattern of their names."""

import re
from collections.abc import Callable, Iterator

from torch import nn


def make(factory: Callable[..., nn.Module], n: int, *arguments, **named) -> nn.Sequential:
    """A tower of `n` blocks, each made by a call of `factory(*arguments, **named)`.

    Raises:
        TypeError: the factory does not return a module.
        ValueError: n is negative, or the factory gives the same module again: the blocks would share their parameters.

    Example:
        >>> tower = pylayers.blocks.make(pylayers.GatedMLP, 100, 64, 256)
    """
    if n < 0:
        raise ValueError(f"blocks.make: n must be at least 0, got {n}")
    blocks = [factory(*arguments, **named) for _ in range(n)]
    for block in blocks:
        if not isinstance(block, nn.Module):
            raise TypeError(f"blocks.make: factory must return a Module, got {type(block).__name__}")
    if len({id(block) for block in blocks}) < n:
        raise ValueError("blocks.make: factory must return a new module each time, got one twice (use it in a list to share it)")
    return nn.Sequential(*blocks)


def parameters_matching(module: nn.Module, pattern: str) -> Iterator[tuple[str, nn.Parameter]]:
    """Names and parameters whose full name has a match of the regular expression `pattern` in it.

    Example:
        >>> dict(pylayers.blocks.parameters_matching(net, r"bias$"))
    """
    found = re.compile(pattern)
    return ((name, parameter) for name, parameter in module.named_parameters() if found.search(name))
