"""Whole models as they are and as `pylayers.convert` makes them, each alone and under torch.compile: a training step of all, by turns."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

import pylayers
from pylayers.conversion.measure import train

from .harness import dtype_name
from .measure import runs
from .memory import peak_bytes, quiet_profiler
from .models import MODELS, NARROW, PUBLISHED, SMALL, made
from .records import Case, Entry
from .roofs import predicted_seconds
from .timing import Variant, wall_times

NAMES = (*MODELS, *PUBLISHED)
CLOCK = "model"
# What multiplies matrices, which is not ours: by the names that the profiler has.
PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::mv", "aten::addmv", "convolution", "_scaled_dot_product", "mkldnn")
# Seconds of a head's products, forward and backward, beyond which models are narrow.
SLOWEST_HEAD = 4.0
# Seconds for the rounds of one model.
BUDGET = 16.0


def measure(name: str, device: torch.device, dtype: torch.dtype, rates: dict) -> Case:
    """A training step: outputs, loss, the gradients of all parameters. `rates`: what `roofs.measure` found, which tells the scale."""
    torch.compiler.reset()
    head = SMALL.batch * SMALL.tokens, SMALL.dim, SMALL.vocabulary
    scale = NARROW if predicted_seconds(rates, dtype_name(dtype), *head, backward=True) > SLOWEST_HEAD else SMALL
    model, inputs = made(name, scale, device, dtype)
    sizes = tuple(next(one for one in inputs.values() if isinstance(one, torch.Tensor)).shape)
    case = Case("convert", name, sizes, dtype_name(dtype), "training step", CLOCK)
    variants = []
    for label, role, make in (
        ("eager", "eager", lambda: copy.deepcopy(model)),
        ("converted", "ours", lambda: converted(model)),
        ("compile", "compile", lambda: torch.compile(copy.deepcopy(model))),
        ("converted, compiled", "compiled", lambda: torch.compile(converted(model))),
        ("liger_kernel", "peer", lambda: liger_kernel(model, device)),
    ):
        entry = case.entries[label] = Entry(role)
        try:
            variant = Variant(label, role, partial(train, make(), (), inputs))
        except Exception as error:  # noqa: BLE001 a package that is not there, or does not know the model
            entry.note = f"n/a: {str(error).splitlines()[0][:120]}"
            continue
        if runs(entry, variant):
            variants.append(variant)
    case.products = share_of_products(variants[0].call, device)
    for label, timing in wall_times(variants, device, budget=BUDGET).items():
        case.entries[label].timing = timing
    for variant in variants:
        case.entries[variant.name].peak_bytes = peak_bytes(variant.call, device)
    return case


def converted(model: nn.Module) -> nn.Module:
    pylayers.convert(twin := copy.deepcopy(model))
    return twin


def liger_kernel(model: nn.Module, device: torch.device) -> nn.Module:
    if device.type != "cuda":
        raise RuntimeError("needs a GPU")
    apply = importlib.import_module("liger_kernel.transformers")._apply_liger_kernel_to_instance
    apply(model=(twin := copy.deepcopy(model)))
    return twin


def share_of_products(call: Callable[[], object], device: torch.device) -> float:
    """Of the time of a call, in products of matrices, attention and convolutions included."""
    gpu = device.type == "cuda"
    with quiet_profiler(), profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]) as profiler:
        call()
    times = list(_times(profiler, gpu))
    return sum(time for key, time in times if any(one in key for one in PRODUCTS)) / max(sum(time for _, time in times), 1e-9)


def _times(profiler: profile, gpu: bool) -> Iterator[tuple[str, float]]:
    for event in profiler.key_averages():
        yield event.key, event.self_device_time_total if gpu else event.self_cpu_time_total
