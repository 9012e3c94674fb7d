"""save_model and load_model."""

import os
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..modules.lazy import Lazy
from . import random_state, registry
from .build import Builder, Registrations
from .codec import Decoder
from .container import damaged, short, write
from .describe import records_of
from .objects import VERSION, on, read_structure, taking, told_by
from .tensors import Objects

_META = torch.device("meta")


def save_model(net: nn.Module, path: str | os.PathLike) -> None:
    """Writes architecture and weights into one file, without pickle.

    The architecture is the classes of the modules and the arguments of their constructors: those of torch.nn's layers and of this
    package are known, those of your own classes by `pylayers.io.register`. Beside the weights the file keeps persistent buffers,
    dtypes, requires_grad, train or eval mode, ties and shared modules; parameters that are not initialised yet come back as such.
    Before it writes, it builds the net once more on the meta device, so that a net that could not be loaded is refused here. The
    old file under this name is replaced in one go.

    Args:
        net: of registered classes.
        path: where to; its folder must be there.

    Raises:
        ValueError: a class is not registered, an argument is not found, the constructors make other shapes than the net has, or a
            parameter is on the meta device.
        TypeError: an argument or a parameter is of a type that the file has no form for.

    Equivalent to:
        >>> torch.save(net, path)
    """
    with told_by("save_model"):
        if not isinstance(net, nn.Module):
            raise TypeError(f"net must be a Module, got {type(net).__name__}")
        modules, encoder = records_of(net)
        tensors, data = encoder.table.finish()
        try:
            _built(modules, Objects(tensors, data, _META))
        except ValueError as error:
            raise ValueError(f"the net could not be loaded again: {error}") from error
        write(path, data, {"kind": "model", "version": VERSION, "modules": modules, "tensors": tensors})


def load_model(path: str | os.PathLike, device: torch.device | str | int | None = None) -> nn.Module:
    """Builds the net that `save_model` wrote, with its weights.

    Only registered classes are built, with the arguments in the file; nothing is imported and nothing executed that the file
    names. Random numbers that constructors draw are given back: the generators stand where they stood.

    Args:
        path: of the file.
        device: where the net goes; torch's default device if None, wherever it was saved from.

    Raises:
        DamagedFile: the file is not what was written.
        ValueError: it names a class that is not registered, or a constructor does not take or fit what it says.

    Equivalent to:
        >>> torch.load(path, map_location=device, weights_only=False)
    """
    with told_by("load_model", path):
        structure, objects = read_structure(path, "model", {"modules"}, on(device))
        # On the meta device, where the sizes in a file cost nothing, and for real only if they are those of its tensors.
        builder = _built(structure["modules"], Objects(structure["tensors"], objects.source, _META))
        if _needs_constructors(builder):
            builder = _built(structure["modules"], objects)
        else:
            builder.objects = objects
        _Filler(builder).fill()
        return builder.made[0]


def _built(modules: Any, objects: Objects) -> Builder:
    """The net as its constructors make it, on the device of the objects, and compared with the file."""
    builder = Builder(modules, objects)
    if objects.device.type == "cuda":
        torch.cuda.init()  # so that its generator's state can be kept
    limit = 1000 + 10 * (len(builder.records) + len(objects.records))
    with random_state.kept(), Registrations(limit), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "initializing zero-element tensors"
        builder.net()
    for difference in builder.differences():
        raise ValueError(difference)
    return builder


def _needs_constructors(builder: Builder) -> bool:
    """Whether the net on the meta device lacks more than the tensors in the file."""
    if not all(registry.is_built_in(type(module)) for module in builder.made.values()):
        return True
    lazy = any(record["kind"].startswith("lazy") for record in builder.objects.records)
    kept = (value for module in builder.made.values() for value in vars(module).values())
    return lazy or any(module._non_persistent_buffers_set for module in builder.made.values()) or any(map(torch.is_tensor, kept))


class _Filler:
    """Puts the file's tensors into the net: the parameter objects that a constructor made stay where they can."""

    def __init__(self, builder: Builder) -> None:
        self.builder = builder
        self._final: dict[int, Tensor] = {}
        self._used: set[int] = set()

    def fill(self) -> None:
        for index, module in self.builder.made.items():
            record = self.builder.records[index]
            for name, number in record["parameters"].items():
                self._place(module, module._parameters, name, number, module.register_parameter)
            for name, number in record["buffers"].items():
                self._place(module, module._buffers, name, number, module.register_buffer)
            module.training = record["training"]
            if isinstance(module, Lazy):
                module.name_parameters()
        decoder = Decoder(self.builder.objects)
        for index, module in self.builder.made.items():
            if "extra" in self.builder.records[index]:
                state = decoder.decode(self.builder.records[index]["extra"])
                with taking(f"{type(module).__name__} does not take the extra state in the file"):
                    module.set_extra_state(state)

    def _place(self, module: nn.Module, where: dict, name: str, number: int | None, add: Callable) -> None:
        if name in where:
            where[name] = self._tensor(where[name], number)
            if where is module._parameters:
                if not isinstance(where[name], nn.Parameter | None):
                    damaged(f"parameter {short(name)} is none")
                where[name] = where.pop(name)  # at the end: parameters() has the order of the record
            return
        try:
            add(name, self._tensor(None, number))
        except (KeyError, TypeError) as error:
            damaged(f"a tensor cannot be called {short(name)} ({error})")

    def _tensor(self, existing: Tensor | None, number: int | None) -> Tensor | None:
        if number is None:
            return None
        loaded = self.builder.objects.find(number)
        if number not in self._final:
            usable = isinstance(existing, nn.Parameter) and isinstance(loaded, nn.Parameter) and id(existing) not in self._used
            if usable and existing is not loaded and not existing.is_meta and not is_lazy(existing) and not is_lazy(loaded):
                existing.data = loaded.data
                loaded = existing.requires_grad_(loaded.requires_grad)
            self._final[number] = loaded
            self._used.add(id(loaded))
        return self._final[number]
