"""Python values as JSON and back, with their exact types.

None, bool, int, float and str stand for themselves. Everything else is a JSON list that begins with its kind: ["tuple", 1, 2],
["dict", key, value, key, value], ["tensor", 3], ["float", "nan"]. Nothing in a file can name anything but these kinds.
"""

import base64
import binascii
import math
import sys
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .container import DamagedFile, damaged, shaped, short
from .tensors import Objects, Table

MAX_DEPTH = 100
_PLAIN = "None, bool, int, float, complex, str, bytes, list, tuple, dict, tensors, numpy arrays, dtypes, devices and shapes"
_MAPPINGS = {dict: "dict", OrderedDict: "ordered", Counter: "counter"}
_SEQUENCES = {list: "list", tuple: "tuple"}
_DTYPES = {str(value)[6:]: value for value in vars(torch).values() if isinstance(value, torch.dtype)}


def _inner(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


class Encoder:
    """Values to JSON; tensors go to the table.

    Args:
        special: asked first about every value that is not a plain one; returns its JSON, or None.
    """

    def __init__(self, special: Callable[[Any], Any] = lambda value: None) -> None:
        self.table = Table()
        self._special = special

    def encode(self, value: Any, path: str, depth: int = 0) -> Any:
        kind = type(value)
        if value is None or kind in (bool, str):
            return value
        if kind is int:
            return value if abs(value) < 1 << 62 else ["int", hex(value)]
        if kind is float:
            return value if math.isfinite(value) else ["float", str(value)]
        if depth >= MAX_DEPTH:
            raise ValueError(f"{path[:80]}… is nested more than {MAX_DEPTH} deep, or contains itself")
        if kind in _SEQUENCES:
            return [_SEQUENCES[kind], *(self.encode(one, _inner(path, i), depth + 1) for i, one in enumerate(value))]
        if kind in _MAPPINGS:
            return [_MAPPINGS[kind], *self._items(value, path, depth)]
        return self._other(value, path)

    def _items(self, value: dict, path: str, depth: int) -> list:
        items = []
        for key, one in value.items():
            items.append(self.encode(key, f"a key of {path or 'the dict'}", depth + 1))
            items.append(self.encode(one, _inner(path, key), depth + 1))
        # The versions by which load_state_dict knows old state_dicts.
        if type(value) is OrderedDict and isinstance(getattr(value, "_metadata", None), OrderedDict):
            return [self.encode(value._metadata, f"{path}._metadata", depth + 1), *items]
        return [None, *items] if type(value) is OrderedDict else items

    def _other(self, value: Any, path: str) -> list:
        special = self._special(value)
        if special is not None:
            return special
        if isinstance(value, Tensor):
            return ["tensor", self.table.add(value, path)]
        if type(value) is complex:
            return ["complex", self.encode(value.real, path), self.encode(value.imag, path)]
        if type(value) is bytes:
            return ["bytes", base64.b64encode(value).decode()]
        if type(value) is torch.Size:
            return ["shape", *value]
        if type(value) is torch.dtype:
            return ["dtype", str(value)[6:]]
        if type(value) is torch.device:
            return ["device", str(value)]
        numpy = sys.modules.get("numpy")
        if numpy is not None and type(value) is numpy.ndarray and value.dtype.kind in "biufc":
            return ["array", self.table.add(torch.from_numpy(value.copy()), path)]
        if numpy is not None and isinstance(value, (numpy.number, numpy.bool_)):
            return ["number", self.table.add(torch.from_numpy(numpy.array(value)), path)]
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        raise TypeError(f"{path or 'the object'} is a {kind}; what can be saved: {_PLAIN}")


class Decoder:
    """JSON to values, every one checked.

    Args:
        objects: the tensors of the file.
        special: the kinds that an Encoder's special function wrote: kind to a function of the rest of the list.
    """

    def __init__(self, objects: Objects, special: dict[str, Callable[..., Any]] | None = None) -> None:
        self.objects = objects
        self._special = special or {}

    def decode(self, data: Any, depth: int = 0) -> Any:
        if data is None or type(data) in (bool, int, float, str):
            return data
        if depth > MAX_DEPTH:
            damaged(f"a value is nested more than {MAX_DEPTH} deep")
        if not isinstance(data, list) or not data or not isinstance(data[0], str):
            damaged(f"the value {short(data)} is none that pylayers.io writes")
        kind, rest = data[0], data[1:]
        if kind in ("list", "tuple"):
            values = [self.decode(one, depth + 1) for one in rest]
            return values if kind == "list" else tuple(values)
        if kind in _MAPPINGS.values():
            return self._mapping(kind, rest, depth)
        if kind in ("tensor", "array", "number"):
            return self._tensor(kind, rest)
        if kind in self._special:
            return self._special[kind](*self._only(rest, (int, str)))
        return self._leaf(kind, rest)

    @staticmethod
    def _only(rest: list, kinds: tuple, count: int = 1) -> list:
        if len(rest) != count or not all(type(one) in kinds for one in rest):
            damaged(f"a value with {short(rest)} is none that pylayers.io writes")
        return rest

    def _mapping(self, kind: str, rest: list, depth: int) -> dict:
        made: dict = {"dict": dict, "ordered": OrderedDict, "counter": Counter}[kind]()
        if kind == "ordered":
            metadata = self.decode(rest[0], depth + 1) if rest else damaged("a dict is not whole")
            if metadata is not None:
                made._metadata = metadata
            rest = rest[1:]
        if len(rest) % 2:
            damaged("a dict is not whole")
        for key, value in zip(rest[::2], rest[1::2], strict=True):
            key = self.decode(key, depth + 1)
            try:
                if key in made:
                    damaged(f"a dict has the key {short(key)} twice")
                made[key] = self.decode(value, depth + 1)
            except TypeError:
                damaged(f"a dict has the key {short(key)}, which none can have")
        return made

    def _tensor(self, kind: str, rest: list) -> Any:
        index = self._only(rest, (int,))[0]
        if kind == "tensor":
            return self.objects.find(index)
        array = self.objects.array(index)
        return array if kind == "array" else array[()] if array.ndim == 0 else damaged("a number of numpy has a shape")

    def _leaf(self, kind: str, rest: list) -> Any:
        try:
            if kind == "int":
                return int(self._only(rest, (str,))[0], 16)
            if kind == "float":
                return {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[self._only(rest, (str,))[0]]
            if kind == "complex":
                real, imag = (self.decode(one) for one in self._only(rest, (int, float, list), 2))
                return complex(real, imag) if type(real) is type(imag) is float else damaged("a complex number is none")
            if kind == "bytes":
                return base64.b64decode(self._only(rest, (str,))[0], validate=True)
            if kind == "shape":
                return torch.Size(rest) if shaped(rest) else damaged("a shape is none")
            if kind == "dtype":
                return _DTYPES[self._only(rest, (str,))[0]]
            if kind == "device":
                return torch.device(self._only(rest, (str,))[0])
        except DamagedFile:
            raise
        except (KeyError, ValueError, RuntimeError, binascii.Error):
            damaged(f"the value {short([kind, *rest])} is none that pylayers.io writes")
        damaged(f"there is no kind of value {short(kind)}")
