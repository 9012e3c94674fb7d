"""The ONNX translation of every op."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import torch

from . import activations, centered, halve_until, losses, norms, pointwise_loss, products, rotary, softmax
from .operators import Operators

OPSETS = range(18, 24)

_TRANSLATED = {
    "add_layer_norm_forward": norms.add_layer_norm_forward,
    "add_rms_norm_forward": norms.add_rms_norm_forward,
    "bilinear_forward": products.bilinear_forward,
    "centered_forward": centered.centered_forward,
    "cross_entropy_forward": losses.cross_entropy_forward,
    "gate_forward": activations.gate_forward,
    "gate_packed_forward": activations.gate_packed_forward,
    "group_norm_forward": norms.group_norm_forward,
    "halve_until_forward": halve_until.halve_until_forward,
    "layer_norm_forward": norms.layer_norm_forward,
    "linear_cross_entropy_forward": losses.linear_cross_entropy_forward,
    "linear_epilogue": activations.linear_epilogue,
    "linear_forward": products.linear_forward,
    "linear_kl_div_forward": losses.linear_kl_div_forward,
    "parallel_linear_forward": products.parallel_linear_forward,
    "pointwise_loss_forward": pointwise_loss.pointwise_loss_forward,
    "rms_norm_forward": norms.rms_norm_forward,
    "rotary_rotate": rotary.rotary_rotate,
    "softmax_forward": softmax.softmax_forward,
    "softmax_masked_forward": softmax.softmax_masked_forward,
    "tensor_reduction_forward": products.tensor_reduction_forward,
}


def translations(opset: int = 23) -> dict[Callable, Callable]:
    """What `torch.onnx.export(…, dynamo=True, custom_translation_table=translations(opset), opset_version=opset)` needs to know about
    the ops of this package.

    Args:
        opset: from 18 to 23.

    Raises:
        TypeError, ValueError: opset is no such number.
        ImportError: onnx or onnxscript is missing.
    """
    check_opset("translations", opset)
    check_packages("translations")
    op = Operators(opset)
    return {getattr(torch.ops.pylayers, name).default: _bound(op, name, translate) for name, translate in _TRANSLATED.items()}


def check_opset(who: str, opset: int) -> None:
    if not isinstance(opset, int) or isinstance(opset, bool):
        raise TypeError(f"{who}: opset must be an int, got {type(opset).__name__}")
    if opset not in OPSETS:
        raise ValueError(f"{who}: opset must be between {OPSETS[0]} and {OPSETS[-1]}, which torch writes, got {opset}")


def check_packages(who: str) -> None:
    if missing := [name for name in ("onnx", "onnxscript") if find_spec(name) is None]:
        raise ImportError(f"{who}: ONNX needs {' and '.join(missing)}, not found here: pip install torch-pylayers[onnx]")


def _bound(op: Operators, name: str, translate: Callable) -> Callable:
    def call(*arguments, **named):
        return translate(op, *arguments, **named)

    call.__name__ = name  # torch asks for it
    return call
