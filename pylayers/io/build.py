"""The net that records describe."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from . import registry
from .codec import Decoder, Encoder
from .container import damaged, short, whole
from .describe import describe, persistent_buffers
from .objects import taking
from .tensors import Objects

_KEYS = {"class", "args", "kwargs", "children", "parameters", "buffers", "training", "extra"}


def _check_record(record: Any, count: int, tensors: int) -> None:
    if not isinstance(record, dict) or set(record) | {"extra"} != _KEYS or not isinstance(record["class"], str):
        damaged("a module is described in an unknown way")
    places = [record[key] for key in ("children", "parameters", "buffers", "kwargs")]
    if not isinstance(record["args"], list) or not all(isinstance(place, dict) for place in places):
        damaged("a module is described in an unknown way")
    if type(record["training"]) is not bool:
        damaged("a module is described in an unknown way")
    for kind, below in (("children", count), ("parameters", tensors), ("buffers", tensors)):
        for number in record[kind].values():
            if number is not None and not (whole(number) and number < below):
                damaged(f"the {kind} of a module have {short(number)}, which is not there")


def _references(value: Any) -> Iterator[int]:
    """The modules that arguments name."""
    if isinstance(value, list) and value[:1] == ["module"] and len(value) == 2 and whole(value[1]):
        yield value[1]
    elif isinstance(value, (list, dict)):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _references(one)


def _check_order(records: list[dict]) -> None:
    """No module may be inside itself."""
    done: set[int] = set()
    for start in range(len(records)):
        path: dict[int, Iterator[int]] = {}  # from the start down to the module that is looked at
        if start not in done:
            path[start] = _inside(records[start], len(records))
        while path:
            index = next(reversed(path))
            child = next(path[index], None)
            if child is None:
                done.add(index)
                del path[index]
            elif child in path:
                damaged("a module contains itself")
            elif child not in done:
                path[child] = _inside(records[child], len(records))


def _inside(record: dict, count: int) -> Iterator[int]:
    children = [child for child in record["children"].values() if child is not None]
    return iter([*children, *(one for one in _references([record["args"], record["kwargs"]]) if one < count)])


class Builder:
    """Builds the net that records describe.

    A constructor makes its submodules itself; those that are as the records say stay, the others are replaced, taken away or
    added, so that a net whose head was exchanged after it was built comes back with the new head.
    """

    def __init__(self, records: Any, objects: Objects) -> None:
        if not isinstance(records, list) or not records:
            damaged("it has no modules")
        for record in records:
            _check_record(record, len(records), len(objects.records))
            if registry.find(record["class"]) is None:
                raise ValueError(
                    f"the file names the class {short(record['class'])}, which is not registered here: register it with "
                    "pylayers.io.register before loading, if the file is one that you trust"
                )
            if not _is_module_class(registry.find(record["class"])):
                damaged(f"{short(record['class'])} is no module class")
        _check_order(records)
        self.records = records
        self.made: dict[int, nn.Module] = {}
        self._adopted: set[int] = set()
        self._signatures: dict[int, Any] = {}
        self._decoder = Decoder(objects, {"module": self.build, "registered": self._registered, "here": lambda _: self.device})
        self.objects = objects
        self.device = objects.device

    def net(self) -> nn.Module:
        try:
            net = self.build(0)
        except RecursionError:
            damaged("its modules are nested too deeply")
        if len(self.made) != len(self.records):
            damaged("it has modules that are in no other")
        return net

    def build(self, index: Any) -> nn.Module:
        if not whole(index) or index >= len(self.records):
            damaged(f"there is no module {short(index)}")
        if index in self.made:
            return self.made[index]
        record = self.records[index]
        cls = registry.find(record["class"])
        args = [self._decoder.decode(value) for value in record["args"]]
        kwargs = {key: self._decoder.decode(value) for key, value in record["kwargs"].items()}
        given = ", ".join([*map(short, args), *(f"{key}={short(value)}" for key, value in kwargs.items())])
        with taking(f"{cls.__name__}({given[:300]}) cannot be built"):
            module = self._construct(cls, args, kwargs)
        if not isinstance(module, nn.Module):
            raise ValueError(f"{cls.__name__} built a {type(module).__name__}, which is no module")
        return self._adopt(module, index)

    def _construct(self, cls: type, args: list, kwargs: dict[str, Any]) -> nn.Module:
        """On meta, constructors of users' own classes may not run, those that call `.item()` for instance: they run for real."""
        if self.device.type != "meta":
            with torch.device(self.device):
                return cls(*args, **kwargs)
        try:
            with torch.device("meta"), _NothingDrawn():
                return cls(*args, **kwargs)
        except Exception:
            if registry.is_built_in(cls):
                raise
        with torch.device("cpu"):
            return cls(*args, **kwargs)

    @staticmethod
    def _registered(name: Any) -> Any:
        found = registry.find(name) if isinstance(name, str) else None
        if found is None:
            raise ValueError(f"the file names {short(name)}, which is not registered here: register it with pylayers.io.register")
        return found

    def _adopt(self, module: nn.Module, index: int) -> nn.Module:
        """Makes the module's children those of the record, and remembers it."""
        self.made[index] = module
        self._adopted.add(id(module))
        wanted = {name: self._child(module._modules.get(name), child) for name, child in self.records[index]["children"].items()}
        for name in [name for name in module._modules if name not in wanted]:
            del module._modules[name]
        for name, child in wanted.items():
            if name not in module._modules:
                try:
                    module.add_module(name, child)
                except (KeyError, TypeError) as error:
                    damaged(f"a module cannot be called {short(name)} ({error})")
            module._modules[name] = child
        for name in wanted:  # the order in which parameters() goes through them
            module._modules[name] = module._modules.pop(name)
        return module

    def _child(self, existing: nn.Module | None, index: int | None) -> nn.Module | None:
        if index is None:
            return None
        if index in self.made:
            return self.made[index]
        if existing is not None and id(existing) not in self._adopted and self._fits(existing, index):
            return self._adopt(existing, index)
        return self.build(index)

    def _fits(self, module: nn.Module, index: int) -> bool:
        """Whether the record would build the same module, its children aside."""
        return registry.name_of(type(module)) == self.records[index]["class"] and _signature(module) == self._signature(index)

    def _signature(self, index: int) -> Any:
        """Class and arguments as a value to compare, with modules in the arguments likewise."""
        if index not in self._signatures:
            record = self.records[index]
            self._signatures[index] = _replace([record["class"], record["args"], record["kwargs"]], self._signature)
        return self._signatures[index]

    def differences(self) -> Iterator[str]:
        """Where the net that was built is not as its records say, in words."""
        for index, module in self.made.items():
            record = self.records[index]
            yield from _unlike(module, record, self.objects)
            if _signature(module) != self._signature(index):
                yield f"{type(module).__name__} does not keep its constructor's arguments as they were given"


def _is_module_class(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, nn.Module)


def _replace(value: Any, signature: Callable[[Any], Any]) -> Any:
    if isinstance(value, dict):
        return {key: _replace(one, signature) for key, one in value.items()}
    if isinstance(value, list):
        if value[:1] == ["module"] and len(value) == 2:
            return ["module", signature(value[1])]
        if value[:1] in (["tensor"], ["array"], ["number"]):
            return [value[0]]
        return [_replace(one, signature) for one in value]
    return value


def _signature(module: nn.Module) -> Any:
    inner: dict[int, nn.Module] = {}

    def special(value: Any) -> list | None:
        if isinstance(value, nn.Module):
            inner[id(value)] = value
            return ["module", id(value)]
        return ["tensor", 0] if isinstance(value, Tensor) else describe(value, {})

    encoder = Encoder(special)
    try:
        args, kwargs = registry.arguments(module)
        data = [registry.name_of(type(module)), [encoder.encode(one, "") for one in args]]
        data.append({key: encoder.encode(one, "") for key, one in kwargs.items()})
    except (TypeError, ValueError, RecursionError):
        return None
    return _replace(data, lambda key: _signature(inner[key]))


class _NothingDrawn(TorchFunctionMode):
    """Leaves out the random initial values on meta, where there are none: torch loads its compiler to find that out."""

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func in (Tensor.normal_, Tensor.uniform_, nn.init.normal_, nn.init.uniform_):
            drawn = kwargs["tensor"] if "tensor" in kwargs else args[0]
            if drawn.is_meta:
                return drawn
        return func(*args, **kwargs)


class Registrations:
    """While it is entered, no more than `limit` parameters may be made in this thread: what a file can make a constructor do."""

    def __init__(self, limit: int) -> None:
        self._left = limit
        self._thread = threading.get_ident()

    def __enter__(self) -> None:
        self._handles = [
            register(self._count)
            for register in (
                hooks.register_module_parameter_registration_hook,
                hooks.register_module_buffer_registration_hook,
                hooks.register_module_module_registration_hook,
            )
        ]

    def __exit__(self, *error: Any) -> None:
        for handle in self._handles:
            handle.remove()

    def _count(self, module: nn.Module, name: str, value: Any) -> None:
        if threading.get_ident() != self._thread:
            return
        self._left -= 1
        if self._left < 0:
            raise ValueError("its constructor makes far more parameters than the file holds")


def _unlike(module: nn.Module, record: dict, objects: Objects) -> Iterator[str]:
    cls = type(module).__name__
    for kind, made in (("parameters", module._parameters), ("buffers", persistent_buffers(module))):
        for name, tensor in made.items():
            if name not in record[kind]:
                yield f"{cls} makes {name!r}, which the net does not have"
                continue
            number = record[kind][name]
            if tensor is None or number is None or is_lazy(tensor):
                continue
            shape = objects.shape(number)
            if shape != tensor.shape:
                there = "is not initialised" if shape is None else f"has shape {list(shape)}"
                yield f"{cls} makes {name!r} of shape {list(tensor.shape)}, but that of the net {there}"
