from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from .rotary import widen_tables
from .table import check_opset, check_packages, translations

# What dropout_add in training mode draws its seed with, and what fills tensors.
_DRAWS = ("aten.randint", "pylayers.two_sided_uniform_")
_RANDOM = "model draws random numbers, as dropout_add does with training=True, and ONNX has no operator that gives the same ones"


def export(
    model: nn.Module | torch.export.ExportedProgram,
    args: Sequence[Any],
    path: str | os.PathLike,
    *,
    opset: int = 23,
    dynamic_shapes: Any = None,
    kwargs: Mapping[str, Any] | None = None,
) -> torch.onnx.ONNXProgram:
    r"""Writes a model with layers of this package as an ONNX file of standard operators alone.

    It is `torch.onnx.export` with the translations of our ops; rotations that its optimizer puts together in opset 23 get tables of as
    many sequences as they turn, which it leaves out. The file takes the name `path` when it is whole; until then, and where
    something raises, what was there stays. Weights of more than 2 GB go to a second file beside it, `path` and ".data".

    Args:
        model: in eval mode, or an ExportedProgram.
        args: positional arguments of one call, a tuple; () for an ExportedProgram.
        path: of the file. Its folder must be there.
        opset: from 18 to 23. 23 has RMSNormalization and RotaryEmbedding, 21 GroupNormalization, 20 Gelu: below, they are spelt out.
        dynamic_shapes: the sizes that may differ from those of args, as `torch.export.export` takes them.
        kwargs: arguments by name of the same call.

    Returns: torch's ONNXProgram. Called, it runs in onnxruntime.

    Raises:
        TypeError: model, args, kwargs or opset is of another type.
        ValueError: a model in training mode, parameters without a shape, an opset that torch does not write, or an op that draws random
            numbers.
        FileNotFoundError, IsADirectoryError: path cannot be a file.
        ImportError: onnx or onnxscript is missing.
        torch.onnx.OnnxExporterError: what torch cannot export.

    Dtypes: as the model. Runtimes have fewer: onnxruntime on a CPU has no product of bfloat16.

    Equivalent to:
        >>> table = pylayers.onnx.translations(opset)
        >>> program = torch.onnx.export(model, args, dynamo=True, opset_version=opset, custom_translation_table=table)
        >>> program.save(path)
    """
    check_opset("export", opset)
    file = _checked_path(path)
    _check_call(model, args, kwargs)
    check_packages("export")
    options = {"dynamo": True, "opset_version": opset, "dynamic_shapes": dynamic_shapes, "verbose": False}
    try:
        # In inference mode torch sees ops before they are taken apart into those of the table.
        with torch.inference_mode(False), torch.no_grad():
            program = torch.onnx.export(model, tuple(args), kwargs=kwargs, custom_translation_table=translations(opset), **options)
    except torch.onnx.OnnxExporterError as error:
        if any(name in str(reason) for reason in _reasons(error) for name in _DRAWS):
            raise ValueError(f"export: {_RANDOM}") from error
        raise
    widen_tables(program.model.graph)
    _save(program, file)
    return program


def _checked_path(path: str | os.PathLike) -> Path:
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"export: path must be a str or a Path, got {type(path).__name__}")
    file = Path(os.path.realpath(path))  # a link stays a link
    if not file.parent.is_dir():
        raise FileNotFoundError(f"export: path must be in a folder that is there, got {os.fspath(path)!r}")
    if file.is_dir():
        raise IsADirectoryError(f"export: path must be the name of a file, got the folder {os.fspath(path)!r}")
    return file


def _check_call(model: Any, args: Any, kwargs: Any) -> None:
    if not isinstance(model, nn.Module | torch.export.ExportedProgram):
        raise TypeError(f"export: model must be a Module or an ExportedProgram, got {type(model).__name__}")
    if not isinstance(args, tuple | list):
        raise TypeError(f"export: args must be a tuple of the arguments of one call, got {type(args).__name__}: write (x,) for one")
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise TypeError(f"export: kwargs must be a dict, got {type(kwargs).__name__}")
    if isinstance(model, nn.Module):
        _check_state(model)


def _check_state(model: nn.Module) -> None:
    training = next((name for name, one in model.named_modules() if one.training), None)
    if training is not None:
        raise ValueError(f"export: model must be in eval mode, but {training or 'it'} is in training mode: call model.eval() first")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise ValueError(f"export: {name} has no shape before the first input: call the model once first")


def _reasons(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _save(program: torch.onnx.ONNXProgram, file: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=f".{file.name[:40]}.", dir=file.parent) as folder:
        program.save(Path(folder) / file.name)
        for one in sorted(Path(folder).iterdir(), key=lambda one: one.name == file.name):  # the model after its data
            os.replace(one, file.with_name(one.name))
