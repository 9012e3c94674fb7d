"""Random inputs for models whose configuration tells their sizes."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

BATCH, TOKENS = 2, 64


def example_inputs(model: nn.Module) -> tuple[tuple, dict[str, Any]]:
    """Positional and named arguments: of a model of transformers or timm. ValueError for others."""
    if hasattr(model, "config") and hasattr(model, "main_input_name"):
        return (), _of_transformers(model)
    if hasattr(model, "default_cfg") and "input_size" in model.default_cfg:
        return (torch.randn(BATCH, *model.default_cfg["input_size"]).to(*_like(model)),), {}
    raise ValueError(f"measure: what {type(model).__name__} is called with is not known: pass its inputs")


def _like(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    parameter = next(model.parameters())
    return parameter.device, parameter.dtype


def _of_transformers(model: nn.Module) -> dict[str, Any]:
    device, dtype = _like(model)
    accepted = inspect.signature(type(model).forward).parameters
    named: dict[str, Any] = {}
    text = model.config.get_text_config()
    tokens = torch.randint(getattr(text, "vocab_size", 2), (BATCH, min(TOKENS, getattr(text, "max_position_embeddings", TOKENS))), device=device)
    if "pixel_values" in accepted:
        vision = getattr(model.config, "vision_config", model.config)
        sizes = (getattr(vision, "num_channels", 3), *[getattr(vision, "image_size", 224)] * 2)
        named["pixel_values"] = torch.randn(BATCH, *sizes).to(device, dtype)
    if "input_features" in accepted:
        frames = 2 * getattr(model.config, "max_source_positions", 1500)
        named["input_features"] = torch.randn(BATCH, getattr(model.config, "num_mel_bins", 80), frames).to(device, dtype)
    if "input_ids" in accepted and "input_features" not in accepted:
        named["input_ids"] = tokens
    if "decoder_input_ids" in accepted:
        named["decoder_input_ids"] = tokens
    if "labels" in accepted and hasattr(text, "vocab_size") and ("lm" in type(model).__name__.lower() or "generation" in type(model).__name__.lower()):
        named["labels"] = tokens
        named.pop("decoder_input_ids", None)
    return named
