"""Tensors of a file as objects: which are the same object, which share memory, how they lie in it."""

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from .container import DTYPES, NAMES, damaged, shaped, short, whole

KINDS = ("tensor", "parameter", "lazy parameter", "lazy buffer")
# What the format has no name for, seen as pairs of real numbers.
_PAIRS = {torch.complex128: torch.float64, torch.complex32: torch.float16}
_ARRAYS = {
    *(torch.float64, torch.float32, torch.float16, torch.complex64, torch.complex128, torch.bool),
    *(torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16, torch.uint32, torch.uint64),
}
_DTYPES = {str(dtype)[6:]: dtype for dtype in (*DTYPES.values(), *_PAIRS)}


def _stored(tensor: Tensor) -> Tensor:
    """With plain bits, in a dtype of the format."""
    plain = tensor.detach().resolve_conj().resolve_neg()
    return torch.view_as_real(plain) if plain.dtype in _PAIRS else plain


def _last(tensor: Tensor) -> int:
    """One behind the last address that the tensor reaches."""
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr() + (reach + 1) * tensor.element_size()


def _place(tensor: Tensor) -> tuple:
    """Two tensors of the same place are the same numbers in the same memory."""
    return (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride(), tensor.is_conj(), tensor.is_neg())


def _is_dense(shape: Iterable[int], stride: Iterable[int]) -> bool:
    """Whether the strides are those of a contiguous tensor with its dimensions in another order."""
    expected = 1
    dims = ((size, step) for size, step in zip(shape, stride, strict=True) if size != 1)
    for size, step in sorted(dims, key=lambda dim: dim[1]):
        if step != expected:
            return False
        expected *= size
    return True


def _contiguous(shape: list[int]) -> list[int]:
    return [math.prod(shape[i + 1 :]) for i in range(len(shape))]


def _overlapping(tensors: list[Tensor]) -> list[list[Tensor]]:
    """Groups whose stretches of memory overlap."""
    groups: list[list[Tensor]] = []
    end = (None, 0)
    for tensor in sorted(tensors, key=lambda one: (str(one.device), one.data_ptr())):
        if groups and end[0] == tensor.device and tensor.data_ptr() < end[1]:
            groups[-1].append(tensor)
        else:
            groups.append([tensor])
            end = (tensor.device, 0)
        end = (tensor.device, max(end[1], _last(tensor)))
    return groups


class Table:
    """Collects the tensors that are to be written: each object once, each stretch of memory once."""

    def __init__(self) -> None:
        self.objects: list[Tensor] = []
        self.names: list[str] = []
        self._index: dict[int, int] = {}
        self._taken: set[str] = {"__metadata__"}

    def add(self, tensor: Tensor, name: str) -> int:
        if id(tensor) in self._index:
            return self._index[id(tensor)]
        self._check(tensor, name)
        name = name.encode("utf-8", "replace").decode()[:200] or "tensor"
        unique, count = name, 1
        while unique in self._taken:
            count += 1
            unique = f"{name}~{count}"
        self._taken.add(unique)
        self.objects.append(tensor)
        self.names.append(unique)
        return self._index.setdefault(id(tensor), len(self.objects) - 1)

    @staticmethod
    def _check(tensor: Tensor, name: str) -> None:
        if isinstance(tensor, (UninitializedParameter, UninitializedBuffer)):
            return
        kind = type(tensor)
        if kind not in (Tensor, nn.Parameter, nn.Buffer) or torch._C._functorch.is_functorch_wrapped_tensor(tensor):
            raise TypeError(f"{name} is a {kind.__name__}; only plain tensors and parameters can be saved")
        if tensor.layout != torch.strided or tensor.is_quantized or str(tensor.dtype)[6:] not in _DTYPES:
            raise TypeError(f"{name} has layout {tensor.layout} and dtype {tensor.dtype}, which the file has no form for")
        if tensor.device.type == "meta":
            raise ValueError(f"{name} is on the meta device and has no values: use to_empty(device=…) and fill it first")

    def finish(self) -> tuple[list[dict], dict[str, Tensor]]:
        """The records of the objects, for the structure, and the tensors to write, by name."""
        records: list[dict] = [{} for _ in self.objects]
        data: dict[str, Tensor] = {}
        for record, tensor, name in zip(records, self.objects, self.names, strict=True):
            lazy = isinstance(tensor, (UninitializedParameter, UninitializedBuffer))
            kind = "parameter" if isinstance(tensor, nn.Parameter) or type(tensor) is UninitializedParameter else "tensor"
            record["kind"] = ("lazy parameter" if kind == "parameter" else "lazy buffer") if lazy else kind
            record["dtype"], record["grad"] = str(tensor.dtype)[6:], tensor.requires_grad
            if not lazy and tensor.numel() == 0:
                record["data"], data[name] = name, _stored(tensor)
        full = [one for one, record in zip(self.objects, records, strict=True) if "lazy" not in record["kind"] and one.numel()]
        for group in _overlapping(full):
            self._group(group, records, data)
        return records, data

    def _group(self, group: list[Tensor], records: list[dict], data: dict[str, Tensor]) -> None:
        indices = [self._index[id(one)] for one in group]
        first = group[indices.index(min(indices))]
        name = self.names[min(indices)]
        if len({_place(one) for one in group}) == 1:
            data[name] = _stored(first)
            shape, stride = list(first.shape), list(first.stride())
            for index in indices:
                records[index]["data"] = name
                if stride != _contiguous(shape) and _is_dense(shape, stride):
                    records[index]["stride"] = stride
            return
        names = " and ".join(self.names[index] for index in sorted(indices)[:2])
        if len({one.dtype for one in group}) > 1 or any(one.is_conj() or one.is_neg() for one in group):
            raise ValueError(f"{names} share memory and read it differently, which the file has no form for: clone one of them")
        start, size = min(one.data_ptr() for one in group), first.element_size()
        base = min(one.storage_offset() for one in group)
        flat = torch.empty(0, dtype=first.dtype, device=first.device)
        flat.set_(first.untyped_storage(), base, ((max(map(_last, group)) - start) // size,), (1,))
        data[name] = _stored(flat)
        for index, one in zip(indices, group, strict=True):
            view = [one.storage_offset() - base, list(one.shape), list(one.stride())]
            records[index].update(data=name, view=view)


def _check_view(data: Tensor, view: Any) -> None:
    if not (isinstance(view, list) and len(view) == 3 and whole(view[0]) and shaped(view[1]) and shaped(view[2])):
        damaged("a view is not one")
    offset, shape, stride = view
    if len(shape) != len(stride) or data.dim() != 1 or not all(shape):
        damaged("a view is not one")
    if offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True)) >= len(data):
        damaged("a view reaches beyond its tensor")


def _check_stride(shape: torch.Size, stride: Any) -> None:
    if not shaped(stride) or len(stride) != len(shape) or not _is_dense(shape, stride):
        damaged("a tensor has strides that are none")


class Objects:
    """The tensors of a file as the objects that they were. Checks every record; makes an object when it is first asked for."""

    def __init__(self, records: Any, data: dict[str, Tensor], device: torch.device) -> None:
        if not isinstance(records, list):
            damaged("its list of tensors is none")
        self.device = device
        self.records = records
        self.source = data
        self._data: dict[tuple, Tensor] = {}
        self._made: dict[int, Tensor] = {}
        for record in records:
            self._check(record)
        self._used = Counter(record["data"] for record in records if "data" in record)
        if set(self._used) != set(data):
            damaged("its structure and its header do not name the same tensors")

    def _check(self, record: Any) -> None:
        if not isinstance(record, dict) or record.get("kind") not in KINDS or not isinstance(record.get("dtype"), str):
            damaged("a tensor is described in an unknown way")
        if record["dtype"] not in _DTYPES:
            damaged(f"there is no dtype {short(record['dtype'])}")
        lazy = record["kind"].startswith("lazy")
        if type(record.get("grad")) is not bool or not set(record) <= {"kind", "dtype", "grad", "data", "stride", "view"}:
            damaged("a tensor is described in an unknown way")
        if lazy != ("data" not in record) or {"stride", "view"} <= set(record) or (lazy and {"stride", "view"} & set(record)):
            damaged("a tensor is described in an unknown way")
        dtype = _DTYPES[record["dtype"]]
        if record["grad"] and not (dtype.is_floating_point or dtype.is_complex):
            damaged(f"a tensor of dtype {dtype} cannot have a gradient")
        if lazy:
            return
        if not isinstance(record["data"], str) or record["data"] not in self.source:
            damaged(f"there is no tensor {short(record['data'])}")
        stored = self.source[record["data"]]
        if stored.dtype != _PAIRS.get(dtype, dtype) or (dtype in _PAIRS and stored.shape[-1:] != (2,)):
            damaged(f"tensor {short(record['data'])} is {stored.dtype} in one place and {dtype} in another")

        pairs = dtype in _PAIRS
        if "view" in record:
            _check_view(torch.view_as_complex(stored) if pairs else stored, record["view"])
        if "stride" in record:
            _check_stride(stored.shape[: -1 if pairs else None], record["stride"])

    def _storage(self, record: dict) -> Tensor:
        name, stride = record["data"], record.get("stride")
        key = (name, tuple(stride or ()))
        if key not in self._data:
            data = self.source[name].to(self.device)
            data = torch.view_as_complex(data) if _DTYPES[record["dtype"]] in _PAIRS else data
            if stride:
                data = torch.empty_strided(data.shape, stride, dtype=data.dtype, device=data.device).copy_(data)
            self._data[key] = data
        return self._data[key]

    def shape(self, index: int) -> torch.Size | None:
        """Of the tensor; None for a lazy one."""
        record = self.records[index]
        if "data" not in record:
            return None
        if "view" in record:
            return torch.Size(record["view"][1])
        shape = self.source[record["data"]].shape
        return shape[:-1] if _DTYPES[record["dtype"]] in _PAIRS else shape

    def _record(self, index: Any) -> dict:
        if not whole(index) or index >= len(self.records):
            damaged(f"there is no tensor {short(index)}")
        return self.records[index]

    def find(self, index: Any) -> Tensor:
        if index not in self._made:
            self._made[index] = self._make(self._record(index))
        return self._made[index]

    def array(self, index: Any) -> Any:
        """A tensor that was an array of numpy."""
        record = self._record(index)
        dtype = _DTYPES[record["dtype"]]
        if record.keys() != {"kind", "dtype", "grad", "data"} or record["grad"] or dtype not in _ARRAYS:
            damaged("an array of numpy is none")
        stored = self.source[record["data"]]
        return (torch.view_as_complex(stored) if dtype in _PAIRS else stored).numpy()

    def _make(self, record: dict) -> Tensor:
        kind, dtype = record["kind"], _DTYPES[record["dtype"]]
        if kind == "lazy parameter":
            return UninitializedParameter(record["grad"], device=self.device, dtype=dtype)
        if kind == "lazy buffer":
            return UninitializedBuffer(record["grad"], device=self.device, dtype=dtype)
        data = self._storage(record)
        if self._used[record["data"]] > 1:  # one of several objects over the same memory
            place = record.get("view") or (0, data.shape, data.stride())
            data = torch.empty(0, dtype=dtype, device=data.device).set_(data.untyped_storage(), *place)
        elif "view" in record:
            data = data.as_strided(*record["view"][1:], record["view"][0])
        return nn.Parameter(data, record["grad"]) if kind == "parameter" else data.requires_grad_(record["grad"])
