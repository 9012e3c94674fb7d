"""Tensors and modules that a layer holds in a way that torch does not see."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_OF_MODULES = frozenset(vars(nn.Module()))  # _parameters, _buffers, _modules, hooks: what torch itself looks after


@dataclass(frozen=True)
class Held:
    """Something under the name `path`: `owner` is the module, list, tuple or dict that it is in, under `key`."""

    path: str
    value: Any
    owner: Any
    key: Any

    def replace(self, value: Any) -> None:
        """Puts something else in its place; what is in a tuple stays."""
        if isinstance(self.owner, nn.Module):
            self.owner.__dict__[self.key] = value
        elif isinstance(self.owner, (list, dict)):
            self.owner[self.key] = value


def _inside(container: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(container, dict):
        yield from ((f"[{key!r}]", key) for key in list(container))
    elif isinstance(container, (list, tuple)):
        yield from ((f"[{index}]", index) for index in range(len(container)))


def _walk(path: str, value: Any, owner: Any, key: Any, depth: int) -> Iterator[Held]:
    if isinstance(value, (Tensor, nn.Module)):
        yield Held(path, value, owner, key)
    elif depth:
        for name, inner in _inside(value):
            yield from _walk(path + name, value[inner], value, inner, depth - 1)


def _held(layer: nn.Module) -> Iterator[Held]:
    """What is kept in plain attributes, and in lists, tuples and dicts in them."""
    for prefix, module in layer.named_modules():
        for name, value in vars(module).items():
            if name not in _OF_MODULES:
                yield from _walk(f"{prefix}.{name}".lstrip("."), value, module, name, 4)


def tensors(layer: nn.Module) -> list[Held]:
    """Tensors that are neither parameter nor buffer. One that is also registered under another name is not hidden."""
    known = {id(one) for one in (*layer.parameters(), *layer.buffers())}
    return [one for one in _held(layer) if isinstance(one.value, Tensor) and id(one.value) not in known]


def modules(layer: nn.Module) -> list[Held]:
    """Modules that are no submodules."""
    known = {id(one) for one in layer.modules()}
    return [one for one in _held(layer) if isinstance(one.value, nn.Module) and id(one.value) not in known]


def move(layer: nn.Module, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
    """Moves all of a layer, the hidden too, without any method of its own: the rules are looked at one by one."""

    def moved(tensor: Tensor) -> Tensor:
        return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)

    for held in modules(layer):
        move(held.value, device, dtype)
    for held in tensors(layer):
        held.replace(moved(held.value.detach()).requires_grad_(held.value.requires_grad))
    for module in layer.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and device is not None and torch.device(device) != parameter.device:
                module._parameters[name] = nn.Parameter(moved(parameter.detach()), parameter.requires_grad)
            elif parameter is not None:
                parameter.data = moved(parameter.data)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = moved(buffer)
