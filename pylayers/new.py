"""The skeleton of a layer with kernels of its own, as a package that builds on this one: `python -m pylayers new MyLayer`."""

import argparse
import keyword
import re
from importlib.util import find_spec
from pathlib import Path

import torch

from .backends import kernels

TEMPLATE = Path(__file__).parent / "templates/layer"
# The template is a package that works: the names in it are replaced.
CLASS, NAME = "ScaledTanh", "scaled_tanh"


def snake_case(name: str) -> str:
    """MyRMSNorm → my_rms_norm."""
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    return parted.lower()


def _libraries() -> set[str]:
    """The names that were given to TORCH_LIBRARY."""
    return {schema.name.split("::")[0] for schema in torch._C._jit_get_all_schemas()}


def names(layer: str) -> tuple[str, str]:
    """The name of the class, and that of op, function and package.

    Raises:
        ValueError: it cannot be named so.
    """
    if not re.fullmatch(r"[A-Z][A-Za-z0-9]*", layer):
        raise ValueError(f"the name of a layer is in CamelCase, like MyLayer, got {layer!r}")
    name = snake_case(layer)
    if keyword.iskeyword(name) or keyword.issoftkeyword(name):
        raise ValueError(f"{layer} would make a package {name!r}, which is a word of Python's: take another name")
    if name in _libraries() or f"{name}_forward" in kernels():
        raise ValueError(f"{layer} would make ops {name!r}, and there are some of that name: take another name")
    if find_spec(name):
        raise ValueError(f"{layer} would make a package {name!r}, and there is one of that name: take another name")
    return layer, name


def create(layer: str, path: Path) -> Path:
    """Writes the package into path/<name of the package> and returns that.

    Raises:
        ValueError: it cannot be named so.
        FileExistsError: the folder is there already.
    """
    layer, name = names(layer)
    folder = path / name
    if folder.exists():
        raise FileExistsError(f"{folder} is there already: remove it, or choose another --path")
    path.mkdir(parents=True, exist_ok=True)
    for source in sorted(one for one in TEMPLATE.rglob("*") if one.is_file() and "__pycache__" not in one.parts):
        target = folder / str(source.relative_to(TEMPLATE)).replace(NAME, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(source.read_text().replace(CLASS, layer).replace(NAME, name))
    return folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("layer", metavar="LAYER", help="the name of the class, such as MyLayer")
    parser.add_argument("--path", type=Path, default=Path(), metavar="DIR", help="where the folder is made (default: here)")


def main(args: argparse.Namespace) -> int:
    try:
        folder = create(args.layer, args.path)
    except (ValueError, OSError) as error:
        raise SystemExit(f"new: {error}") from None
    files = sum(one.is_file() for one in folder.rglob("*"))
    print(f"{folder}: {files} files. In there:")
    print("  pip install --no-build-isolation --no-deps -e .    # builds the C++ kernels, and the CUDA kernels where there is nvcc")
    print("  pytest                                             # every backend; CUDA and Triton kernels also emulated")
    print("  python benchmark.py")
    return 0
