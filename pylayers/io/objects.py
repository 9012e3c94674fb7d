"""save and load: tensors and containers of them."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch

from .codec import Decoder, Encoder
from .container import DamagedFile, damaged, read, short, write
from .tensors import Objects

VERSION = 1


@contextlib.contextmanager
def told_by(who: str, path: str | os.PathLike | None = None) -> Iterator[None]:
    """Puts the function, and the file that it reads, in front of what its helpers say."""
    name = who if path is None else f"{who}: {os.fspath(path)}"
    try:
        yield
    except DamagedFile as error:
        raise DamagedFile(f"{name} is damaged: {error}") from None
    except TypeError as error:
        raise TypeError(f"{name}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


@contextlib.contextmanager
def taking(what: str) -> Iterator[None]:
    """Around code that is not ours and gets what a file holds: whatever it raises is told as a sentence."""
    try:
        yield
    except Exception as error:
        reason = str(error).strip().split("\n")[-1].strip()[:300]
        raise ValueError(f"{what}: {type(error).__name__}: {reason}") from error


def write_structure(path: str | os.PathLike, kind: str, content: dict[str, Any], encoder: Encoder) -> None:
    records, data = encoder.table.finish()
    write(path, data, {"kind": kind, "version": VERSION, **content, "tensors": records})


def read_structure(path: str | os.PathLike, kind: str, keys: set[str], device: torch.device) -> tuple[dict, Objects]:
    """The structure, with these keys, and the tensors."""
    structure, data = read(path)
    if not isinstance(structure, dict) or not isinstance(structure.get("kind"), str) or type(structure.get("version")) is not int:
        damaged("its structure is none that pylayers.io writes")
    if structure["version"] != VERSION:
        raise ValueError(f"it has format {structure['version']}; this is a reader of format {VERSION}")
    if structure["kind"] != kind:
        raise ValueError(f"it holds {short(structure['kind'])}, not {kind!r}")
    if set(structure) != keys | {"kind", "version", "tensors"}:
        damaged("its structure is none that pylayers.io writes")
    return structure, Objects(structure["tensors"], data, device)


def on(device: torch.device | str | int | None) -> torch.device:
    return torch.get_default_device() if device is None else torch.device(device)


def save(path: str | os.PathLike, obj: Any) -> None:
    """Writes tensors, numbers and strings, and lists, tuples and dicts of them, without pickle.

    Types are kept exactly: tuples stay tuples, 1 and 1.0 and True stay what they are, dict keys may be numbers, numpy arrays stay
    numpy arrays. Tensors keep dtype, strides (where they have no gaps), requires_grad and what memory they share; one object
    stays one object. The old file under this name is replaced in one go.

    Args:
        path: where to; its folder must be there.
        obj: what to write.

    Raises:
        TypeError: something in it is not of these types.
        ValueError: it is nested too deeply, contains itself, or a tensor has no values.

    Equivalent to:
        >>> torch.save(obj, path)
    """
    with told_by("save"):
        encoder = Encoder()
        write_structure(path, "object", {"object": encoder.encode(obj, "")}, encoder)


def load(path: str | os.PathLike, device: torch.device | str | int | None = None) -> Any:
    """Reads what `save` wrote.

    Args:
        path: of the file.
        device: where tensors go; torch's default device if None, wherever they were saved from.

    Raises:
        DamagedFile: the file is not what was written.
        ValueError: it holds something else, a model for instance.

    Equivalent to:
        >>> torch.load(path, map_location=device)
    """
    with told_by("load", path):
        structure, objects = read_structure(path, "object", {"object"}, on(device))
        return Decoder(objects).decode(structure["object"])
