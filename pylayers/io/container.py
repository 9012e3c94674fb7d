"""The file: the safetensors format, with a structure in JSON and a checksum of every byte in its header's metadata.

    8 bytes                 length of the header, little endian
    header, JSON            {"__metadata__": {"format": "pt", "pylayers": structure, "pylayers.checksum": digits},
                             name: {"dtype": …, "shape": […], "data_offsets": [begin, end]}, …}, padded with blanks
    data                    the tensors one after the other, without gaps

The checksum is the SHA-256 of the whole file with the checksum's own 64 digits as zeros. Any reader of the format can read the
tensors. The safetensors library itself is not used: it writes through a temporary file of its own, which a killed process leaves
under a name that nobody knows, and reads by mapping the file, whose bytes may then change after they were checked.
"""

import ctypes
import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor

from .atomic import replacing, write_all

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
MAX_HEADER = 100_000_000  # of the format
MAX_DIMS = 64
_CHUNK = 1 << 24
_CHECKSUM = "pylayers.checksum"
_UNSET = "0" * 64


class DamagedFile(ValueError):
    """A file that is not what was written: cut off, changed, or never one of ours."""


def damaged(reason: str) -> NoReturn:
    raise DamagedFile(reason)


def short(value: Any) -> str:
    """As it can stand in a sentence, however long it is."""
    text = " ".join(repr(value[:100] if isinstance(value, (str, list)) else value).split())
    return text if len(text) <= 80 else text[:77] + "…"


def _memory(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous CPU tensor, shared with it."""
    count = tensor.numel() * tensor.element_size()
    return memoryview((ctypes.c_char * count).from_address(tensor.data_ptr())).cast("B") if count else memoryview(b"")


def write(path: str | os.PathLike, tensors: Mapping[str, Tensor], structure: Any) -> None:
    """Writes the file in one go, or leaves the old one."""
    header: dict[str, Any] = {
        "__metadata__": {"format": "pt", "pylayers": json.dumps(structure, separators=(",", ":")), _CHECKSUM: _UNSET}
    }
    end = 0
    ordered = sorted(tensors.items(), key=lambda item: -item[1].element_size())  # so that each is aligned
    for name, tensor in ordered:
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER:
        raise ValueError(
            f"the structure takes {len(text)} bytes, more than the format's {MAX_HEADER}: put long lists of numbers into tensors"
        )
    head = len(text).to_bytes(8, "little") + text
    checksum = hashlib.sha256(head)
    with replacing(path) as descriptor:
        write_all(descriptor, head)
        for _, tensor in ordered:
            on_cpu = tensor.cpu().contiguous()
            data = _memory(on_cpu)
            checksum.update(data)
            write_all(descriptor, data)
        position = head.index(f'"{_CHECKSUM}":"{_UNSET}"'.encode()) + len(_CHECKSUM) + 4
        os.pwrite(descriptor, checksum.hexdigest().encode(), position)


def _unique(pairs: list) -> dict:
    found = dict(pairs)
    return found if len(found) == len(pairs) else damaged("a key is there twice")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else damaged(f"the number {text[:20]} has no place in a float")


def parse(text: str, what: str) -> Any:
    """JSON without what JSON leaves open: no key twice, no NaN, no number that is rounded to infinity."""
    try:
        return json.loads(
            text, object_pairs_hook=_unique, parse_float=_finite, parse_constant=lambda name: damaged(f"{name} is no JSON")
        )
    except DamagedFile:
        raise
    except RecursionError:
        damaged(f"{what} is nested too deeply")
    except ValueError as error:
        damaged(f"{what} is not valid JSON ({error})")


def _metadata(header: Any) -> tuple[str, str]:
    metadata = header.pop("__metadata__", None) if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or set(metadata) != {"format", "pylayers", _CHECKSUM} or metadata["format"] != "pt":
        damaged("its header is not one that pylayers.io writes")
    if not all(isinstance(value, str) for value in metadata.values()) or not re.fullmatch("[0-9a-f]{64}", metadata[_CHECKSUM]):
        damaged("its header is not one that pylayers.io writes")
    return metadata["pylayers"], metadata[_CHECKSUM]


def whole(value: Any) -> bool:
    """Whether it is an int that a size or an offset can be."""
    return type(value) is int and 0 <= value < 1 << 62


def shaped(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= MAX_DIMS and all(map(whole, value))


def _entry(name: str, entry: Any) -> tuple[torch.dtype, list[int], int, int]:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        damaged(f"the entry of tensor {short(name)} must have dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        damaged(f"tensor {short(name)} has the dtype {short(dtype)}, which is none")
    if not shaped(shape):
        damaged(f"tensor {short(name)} has a shape that is none")
    if not shaped(offsets) or len(offsets) != 2:
        damaged(f"tensor {short(name)} has offsets that are none")
    begin, end = offsets
    if end - begin != math.prod(shape) * DTYPES[dtype].itemsize:
        damaged(f"tensor {short(name)} of shape {shape} and dtype {dtype} does not take {end - begin} bytes")
    return DTYPES[dtype], shape, begin, end


def _layout(header: dict, size: int) -> list[tuple[str, torch.dtype, list[int]]]:
    """The tensors in the order of the file, which they must fill without gaps."""
    entries = sorted(((name, *_entry(name, entry)) for name, entry in header.items()), key=lambda entry: entry[3:])
    position = 0
    for name, _, _, begin, end in entries:
        if begin != position:
            damaged(f"tensor {short(name)} begins at byte {begin} of the data, not at {position}")
        position = end
    if position != size:
        damaged(f"its tensors take {position} bytes, and {size} are there")
    return [(name, dtype, shape) for name, dtype, shape, _, _ in entries]


def _fill(file, memory: memoryview, checksum) -> None:
    while len(memory):
        count = file.readinto(memory[:_CHUNK])
        if not count:
            damaged("it ends too early")
        checksum.update(memory[:count])
        memory = memory[count:]


def _head(file, size: int) -> tuple[bytearray, Any]:
    """The first bytes of the file up to the data, and the header in them."""
    if size < 8:
        damaged(f"it has {size} bytes")
    head = bytearray(8)
    _fill(file, memoryview(head), hashlib.sha256())
    length = int.from_bytes(head, "little")
    if length > min(size - 8, MAX_HEADER):
        damaged(f"it has {size} bytes and says that its header takes {length}")
    head.extend(bytes(length))
    _fill(file, memoryview(head)[8:], hashlib.sha256())
    try:
        return head, parse(head[8:].decode(), "its header")
    except UnicodeDecodeError:
        damaged("its header is not UTF-8")


def _blank(head: bytearray, digits: str) -> bytes:
    """The header as it was when the checksum was taken."""
    mark = f'"{_CHECKSUM}":"{digits}"'.encode()
    if head.count(mark) != 1:
        damaged("its header is not one that pylayers.io writes")
    return bytes(head).replace(mark, f'"{_CHECKSUM}":"{_UNSET}"'.encode())


def read(path: str | os.PathLike) -> tuple[Any, dict[str, Tensor]]:
    """The structure and the tensors, on the CPU. Nothing of them is returned unless every byte is what was written.

    Raises:
        DamagedFile: with the reason, without the path.
    """
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        head, header = _head(file, size)
        text, digits = _metadata(header)
        layout = _layout(header, size - len(head))
        checksum = hashlib.sha256(_blank(head, digits))
        tensors = {}
        for name, dtype, shape in layout:
            try:
                raw = torch.empty(math.prod(shape) * dtype.itemsize, dtype=torch.uint8, device="cpu")
                tensors[name] = raw.view(dtype).view(shape)
            except RuntimeError:
                damaged(f"tensor {short(name)} has the shape {shape}, which no tensor can have")
            _fill(file, _memory(raw), checksum)
    if checksum.hexdigest() != digits:
        damaged("its checksum does not fit its content")
    for name, tensor in tensors.items():
        if tensor.dtype == torch.bool and tensor.numel() and tensor.view(torch.uint8).max() > 1:
            damaged(f"tensor {short(name)} has a bool that is neither")
    return parse(text, "its structure"), tensors
