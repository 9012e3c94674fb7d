"""A net as records, one for each module."""

from typing import Any

from torch import Tensor, nn

from . import registry
from .codec import Encoder


def persistent_buffers(module: nn.Module) -> dict[str, Tensor | None]:
    return {name: one for name, one in module._buffers.items() if name not in module._non_persistent_buffers_set}


def _has_extra_state(cls: type) -> bool:
    return cls.get_extra_state is not nn.Module.get_extra_state


def describe(value: Any, modules: dict[int, int]) -> list | None:
    """What stands for modules, registered classes and functions, and the device that is loaded to."""
    if value is registry.HERE:
        return ["here", ""]
    if isinstance(value, nn.Module):
        if id(value) not in modules:
            raise ValueError(
                f"an argument holds a {type(value).__name__} that is no submodule, so its parameters are in no state_dict: "
                "keep modules in a ModuleList or ModuleDict"
            )
        return ["module", modules[id(value)]]
    name = registry.name_of(value)
    return None if name is None else ["registered", name]


def records_of(net: nn.Module) -> tuple[list[dict], Encoder]:
    """One record for each module object, the net's first."""
    paths = {id(module): (path, module) for path, module in net.named_modules()}
    modules = {key: index for index, key in enumerate(paths)}
    encoder = Encoder(lambda value: describe(value, modules))
    # Parameters first, so that they are named as in the state_dict.
    states = [_state(path, module, encoder) for path, module in paths.values()]
    records = []
    for (path, module), state in zip(paths.values(), states, strict=True):
        cls = type(module)
        name = registry.name_of(cls)
        if name is None:
            raise ValueError(
                f"{path or 'the net'} is a {cls.__module__}.{cls.__qualname__}, a class that is not registered: put "
                "@pylayers.io.register in front of it, or pylayers.io.register(cls, config=…) behind it"
            )
        args, kwargs = registry.arguments(module)
        where = f"{path or 'the net'} ({cls.__name__})"
        record = {
            "class": name,
            "args": [encoder.encode(value, f"argument {i} of {where}") for i, value in enumerate(args)],
            "kwargs": {key: encoder.encode(value, f"argument {key} of {where}") for key, value in kwargs.items()},
            "children": {key: None if child is None else modules[id(child)] for key, child in module._modules.items()},
            **state,
        }
        if _has_extra_state(cls):
            record["extra"] = encoder.encode(module.get_extra_state(), f"extra state of {where}")
        records.append(record)
    return records, encoder


def _state(path: str, module: nn.Module, encoder: Encoder) -> dict:
    prefix = f"{path}." if path else ""

    def numbered(tensors: dict) -> dict:
        return {name: None if one is None else encoder.table.add(one, prefix + name) for name, one in tensors.items()}

    return {
        "parameters": numbered(module._parameters),
        "buffers": numbered(persistent_buffers(module)),
        "training": module.training,
    }
