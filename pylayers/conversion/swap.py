"""How a module becomes ours in place: it stays the object that it is, and takes a class whose forward is ours.

So everything that hangs on the module survives: parameters and their ties, names, hooks, mode, device, `isinstance` with the class that it
had. The class is made of `Converted`, our forward, and the class that it had.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

from torch import nn

SETTINGS = "_pylayers"  # the attribute that holds what our forward needs beside the module's own
_INNER = "_old_forward"  # where accelerate keeps the forward behind its hooks


class Converted:
    """Of modules that were converted. `original` is the class that the module had; its name stays, as TorchScript and those who wrap
    modules by the names of their classes want it. `printed` says both."""

    original: ClassVar[type[nn.Module]]
    ours: ClassVar[type]
    printed: ClassVar[str]

    def _get_name(self) -> str:
        return type(self).printed

    def __reduce_ex__(self, protocol: int) -> tuple:
        ours = type(self).ours
        make, arguments = getattr(ours, "rebuild", (_itself, (ours,)))
        return _empty, (make, arguments, type(self).original), self.__getstate__()


@lru_cache(maxsize=None)
def converted_class(ours: type, original: type[nn.Module]) -> type:
    """`original` with the forward of `ours`."""
    was = original.printed if issubclass(original, Converted) else original.__name__
    body = {
        "original": original,
        "ours": ours,
        "printed": was if ours.__name__ == original.__name__ else f"{ours.__name__}[{was}]",
        "forward": ours.forward,  # once more for classes that wrap those of their subclasses, as gradient checkpointing does
        "__module__": original.__module__,
        "__doc__": original.__doc__,
    }
    return type(original.__name__, (ours, Converted, original), body)


def _itself(ours: type) -> type:
    return ours


def _empty(make: Callable[..., type], arguments: tuple, original: type[nn.Module]) -> nn.Module:
    """What a copy, or a pickle, is filled into."""
    cls = converted_class(make(*arguments), original)
    return cls.__new__(cls)


@dataclass(frozen=True)
class Swap:
    """A module that is to get the forward of `ours`, with settings for it."""

    ours: type
    settings: Any = None

    def apply(self, module: nn.Module) -> None:
        if self.settings is not None:
            module.__dict__[SETTINGS] = self.settings
        module.__class__ = converted_class(self.ours, type(module))
        _rebind(module)


def original_class(module: nn.Module) -> type[nn.Module]:
    """The class that a module had before all conversions."""
    cls = type(module)
    while issubclass(cls, Converted):
        cls = cls.original
    return cls


def restore(module: nn.Module) -> None:
    """The class that a module had."""
    module.__class__ = type(module).original
    module.__dict__.pop(SETTINGS, None)
    _rebind(module)


def _rebind(module: nn.Module) -> None:
    """Hooks of accelerate hold the forward as it was bound when they were added."""
    if _INNER in module.__dict__:
        module.__dict__[_INNER] = type(module).forward.__get__(module)


def settings_of(module: nn.Module) -> Any:
    return module.__dict__[SETTINGS]
