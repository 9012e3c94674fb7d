"""`python -m pylayers convert`: what would be converted of a model, and what that gains here."""

from __future__ import annotations

import argparse
import ast
import importlib
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .convert import convert


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        required=True,
        help="a folder or file with a configuration of transformers, the name of one (llama), of a model of timm or torchvision "
        "(vit_tiny_patch16_224, resnet18), or package.module:factory; weights are random",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="an entry of the configuration, or an argument of the factory"
    )
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16", "float64"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--include", action="append", help="what alone is converted: model.layers.*.mlp")
    parser.add_argument("--exclude", action="append", help="what is left alone")
    parser.add_argument("--no-verify", dest="verify", action="store_false", help="without comparing every module with its original")
    parser.add_argument("--no-fuse", dest="fuse", action="store_false", help="every layer for itself")
    parser.add_argument("--measure", action="store_true", help="time and memory of the original and the converted model, by turns")


def main(args: argparse.Namespace) -> int:
    try:
        model = load(args.model, dict(_setting(one) for one in args.set)).to(args.device, getattr(torch, args.dtype))
        report = convert(model, include=args.include, exclude=args.exclude, verify=args.verify, fuse=args.fuse)
        print(report)
        if args.measure:
            print(report.measure())
    except (ValueError, TypeError, RuntimeError, ImportError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _setting(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    if not separator:
        raise ValueError(f"convert: --set takes NAME=VALUE, got {text!r}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def load(name: str, settings: dict[str, Any]) -> nn.Module:
    """A model by its name, with random weights. ValueError for a name that nobody knows."""
    torch.manual_seed(0)
    if ":" in name:
        module, _, factory = name.partition(":")
        made = getattr(importlib.import_module(module), factory)(**settings)
        if not isinstance(made, nn.Module):
            raise TypeError(f"convert: {name} must return a Module, got {type(made).__name__}")
        return made
    for package, make in _PACKAGES.items():
        if find_spec(package) is not None and (made := make(name, settings)) is not None:
            return made
    installed = ", ".join(one for one in _PACKAGES if find_spec(one) is not None) or "neither transformers, timm nor torchvision is installed"
    raise ValueError(f"convert: no model {name!r} is known here ({installed}), and it is no folder; package.module:factory names a function")


def _of_transformers(name: str, settings: dict[str, Any]) -> nn.Module | None:
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if Path(name).exists():
        config = transformers.AutoConfig.from_pretrained(name, **settings)
    elif name in CONFIG_MAPPING:
        config = CONFIG_MAPPING[name](**settings)
    else:
        return None
    kinds = ("AutoModelForCausalLM", "AutoModelForSeq2SeqLM", "AutoModelForImageClassification", "AutoModelForMaskedLM", "AutoModel")
    for kind in (getattr(transformers, one) for one in kinds):
        if type(config) in kind._model_mapping:
            return kind.from_config(config)
    return None


def _of_timm(name: str, settings: dict[str, Any]) -> nn.Module | None:
    import timm

    return timm.create_model(name, **settings) if timm.is_model(name) else None


def _of_torchvision(name: str, settings: dict[str, Any]) -> nn.Module | None:
    from torchvision import models

    return models.get_model(name, weights=None, **settings) if name in models.list_models() else None


_PACKAGES: dict[str, Callable[[str, dict[str, Any]], nn.Module | None]] = {
    "transformers": _of_transformers,
    "timm": _of_timm,
    "torchvision": _of_torchvision,
}
