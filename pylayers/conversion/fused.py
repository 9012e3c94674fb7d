"""What rewritten code calls: one kernel where the layers at hand are ours, else the very calls that it stands for."""

from __future__ import annotations

from collections.abc import Callable
from inspect import isroutine
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import functional
from . import layers, norms
from .feed_forward import ACTIVATIONS
from .layers import takes, watched
from .swap import SETTINGS


def add_norm(norm: nn.Module, a: Any, b: Any) -> tuple[Any, Any]:
    """norm(a + b), a + b."""
    if _fits(norm, a, b):
        if isinstance(norm, norms.RMSNorm):
            own = norm.__dict__[SETTINGS]
            weight = getattr(norm, own.weight) if own.weight else None
            if takes(a, weight):
                return functional.add_rms_norm(b, a, a.shape[-1:], weight, own.eps, offset=own.offset)
        elif takes(a, norm.weight):
            if isinstance(norm, layers.RMSNorm):
                return functional.add_rms_norm(b, a, norm.normalized_shape, norm.weight, norm.eps)
            return functional.add_layer_norm(b, a, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
    total = a + b
    return norm(total), total


def _fits(norm: nn.Module, a: Any, b: Any) -> bool:
    ours = isinstance(norm, norms.RMSNorm | layers.RMSNorm | layers.LayerNorm) and not watched(norm)
    return ours and isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape and a.dtype == b.dtype and not _autocast(a)


def _autocast(x: Tensor) -> bool:
    return torch.is_autocast_enabled(x.device.type)


def norm_activation(norm: nn.Module, activation: Any, x: Any) -> Any:
    """activation(norm(x))."""
    if isinstance(norm, layers.GroupNorm) and not watched(norm) and activation_of(activation) == "silu" and takes(x, norm.weight) and not _autocast(x):
        return functional.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps, activation="silu")
    return activation(norm(x))


_known: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
_PROBE = torch.linspace(-6, 6, 49, dtype=torch.float64)


def activation_of(activation: Any) -> str:
    """The name of an activation that our kernels have, told by its numbers; empty for others."""
    if not isinstance(activation, nn.Module):
        return {F.silu: "silu", F.relu: "relu", torch.relu: "relu", F.gelu: "gelu"}.get(activation, "") if isroutine(activation) else ""
    if (watched(activation) or next(activation.parameters(), None) is not None):
        return ""
    if activation not in _known:
        _known[activation] = _told(activation)
    return _known[activation]


def _told(activation: Callable) -> str:
    try:
        with torch.no_grad():
            y = activation(_PROBE.clone())
    except Exception:  # noqa: BLE001 something else that can be called
        return ""
    if not isinstance(y, Tensor) or y.shape != _PROBE.shape:
        return ""
    return next((name for name, one in ACTIVATIONS.items() if torch.allclose(y, one(_PROBE), rtol=1e-12, atol=1e-12)), "")


def sequence(modules: list[nn.Module], x: Any) -> Any:
    """One after the other, a linear map or a norm together with the activation behind it."""
    index = 0
    while index < len(modules):
        one, behind = modules[index], modules[index + 1] if index + 1 < len(modules) else None
        if together := behind is not None and FUNCTIONS.get(goes_before(one, behind)):
            x = together(one, behind, x)
            index += 1
        else:
            x = one(x)
        index += 1
    return x


def goes_before(one: nn.Module, behind: Any) -> str:
    """"linear" or "norm", if one kernel does what a module and the activation behind it do."""
    if isinstance(one, layers.Linear):
        return "linear" if activation_of(behind) else ""
    return "norm" if isinstance(one, layers.GroupNorm) and activation_of(behind) == "silu" else ""


def linear_activation(linear: nn.Module, activation: Any, x: Any) -> Any:
    """activation(linear(x))."""
    if isinstance(linear, layers.Linear) and not watched(linear) and (name := activation_of(activation)):
        weight, bias = linear.weight_and_bias()
        if takes(x, weight):
            return functional.linear(x, weight, bias, activation=name)
    return activation(linear(x))


def rotary(original: Callable, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *others: Any, **named: Any) -> tuple[Tensor, Tensor]:
    """What `original` gives for heads-first q and k and tables whose halves are alike."""
    plain = not others and all(name == "unsqueeze_dim" and value == 1 for name, value in named.items())
    if not plain or q.dim() != 4 or k.dim() != 4 or cos.dim() != 3 or not takes(q, k) or cos.requires_grad or _autocast(q):
        return original(q, k, cos, sin, *others, **named)
    half = cos.shape[-1] // 2
    dtype = torch.float64 if q.dtype == torch.float64 and cos.dtype == torch.float64 else torch.float32
    return functional.rotary(q, k, cos[..., :half].to(dtype), sin[..., :half].to(dtype), heads_first=True)


FUNCTIONS = {"norm": norm_activation, "linear": linear_activation}
