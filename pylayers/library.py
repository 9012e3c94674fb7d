"""Loads the compiled library, after telling whether it fits the torch that is here."""

import json
import sys
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path


def _folder() -> Path:
    """Where the build put its results: beside this file, or in the installed package that a checkout's own folder hides."""
    here = Path(__file__).parent
    for found in (here, *(Path(str(one.locate_file("pylayers"))) for one in distributions(name="torch-pylayers"))):
        if (found / "_ops.abi3.so").exists():
            if found != here:
                sys.modules["pylayers"].__path__.append(str(found))
            return found
    return here


library_folder = _folder()


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _record() -> dict:
    """What the library was built for. The first thing that an import of the package asks: without torch, nothing of it can be."""
    record = library_folder / "build_info.json"
    if not record.exists() or find_spec("pylayers._C") is None:
        raise ImportError(
            f"pylayers: the compiled library is not in {library_folder}: run `pip install --no-build-isolation --no-deps .` in the checkout"
        )
    info = json.loads(record.read_text())
    if find_spec("torch") is None:
        raise ModuleNotFoundError(
            f"pylayers: torch is not installed: run `pip install torch=={_minor(info['torch'])}.*`, for which the library was built",
            name="torch",
        )
    return info


def _check(info: dict) -> None:
    if _minor(info["torch"]) != _minor(torch.__version__):
        raise ImportError(
            f"pylayers: the compiled library was built for torch {info['torch']}, but this is torch {torch.__version__}: "
            f"run `pip install torch=={_minor(info['torch'])}.*`, take the wheel for this torch, or build the library again in the "
            "checkout with `pip install --force-reinstall --no-deps --no-build-isolation .`"
        )


build_info = _record()

import torch  # noqa: E402

_check(build_info)
torch.ops.load_library(library_folder / "_ops.abi3.so")

from . import _C as doors  # noqa: E402  (needs torch and _ops to be loaded)
