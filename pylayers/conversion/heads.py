"""Logits that nobody looks at are not computed: the cross entropy of a large linear map, in chunks.

A converted head gives, in training, a Tensor that remembers what it would be computed of. Rows that are taken of it, other shapes, a wider
dtype and the steps of a soft cap are remembered too; a cross entropy of it is `functional.linear_cross_entropy`. Anything else computes
it, and sees the plain Tensor that it stands for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_map_only

from ..door import door
from .layers import Linear, takes

_linear_cross_entropy = door("linear_cross_entropy")

CHANGED = (
    "convert: these logits are computed when they are first used, and what they are computed of has changed since: use them before "
    "optimizer.step(), or convert with fuse=False"
)


@dataclass(frozen=True)
class Recipe:
    """z = hidden · weightᵀ + bias, of which the first `steps` of z / cap, tanh, and · cap are taken."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    dtype: torch.dtype
    autocast: tuple[bool, torch.dtype]
    watched: tuple[tuple[Tensor, int], ...]  # what must not change, and its version
    cap: float = 1.0
    steps: int = 0

    @property
    def shape(self) -> torch.Size:
        return torch.Size((*self.hidden.shape[:-1], self.weight.shape[0]))

    def check(self) -> None:
        if any(tensor._version != version for tensor, version in self.watched):
            raise RuntimeError(CHANGED)

    def logits(self) -> Tensor:
        self.check()
        enabled, dtype = self.autocast
        with torch.autocast(self.hidden.device.type, dtype, enabled=enabled):
            z = F.linear(self.hidden, self.weight, self.bias).to(self.dtype)
        for step in (lambda z: z / self.cap, torch.tanh, lambda z: z * self.cap)[: self.steps]:
            z = step(z)
        return z

    def cross_entropy(self, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: str, smoothing: float) -> Tensor:
        self.check()
        enabled, dtype = self.autocast
        with torch.autocast(self.hidden.device.type, dtype, enabled=enabled):
            options = (reduction, ignore_index, smoothing, 0.0, self.cap if self.steps else None, None, self.dtype)
            return _linear_cross_entropy(self.hidden, self.weight, target, self.bias, weight, *options)


class Logits(Tensor):
    """Logits that are computed when somebody looks."""

    recipe: Recipe

    @staticmethod
    def __new__(cls, recipe: Recipe) -> Logits:
        self = Tensor._make_wrapper_subclass(cls, recipe.shape, dtype=recipe.dtype, device=recipe.hidden.device)
        self.recipe, self.computed = recipe, None
        return self

    def compute(self) -> Tensor:
        if self.computed is None:
            self.computed = self.recipe.logits()
        return self.computed

    @classmethod
    def __torch_function__(cls, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        handle = HANDLERS.get(function)
        if handle is not None and isinstance(args[0], Logits) and args[0].computed is None:
            found = handle(function, *args, **kwargs)
            if found is not NotImplemented:
                return found
        args, kwargs = tree_map_only(Logits, Logits.compute, (args, kwargs))
        return function(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        args, kwargs = tree_map_only(Logits, Logits.compute, (args, kwargs or {}))
        return function(*args, **kwargs)


def _known(function: Callable, self: Logits, *args: Any, **kwargs: Any) -> Any:
    """What needs no numbers."""
    with torch._C.DisableTorchFunctionSubclass():
        return function(self, *args, **kwargs)


def _requires_grad(function: Callable, self: Logits) -> bool:
    return True


def _itself(function: Callable, self: Logits, *args: Any, **kwargs: Any) -> Any:
    return NotImplemented if args or kwargs else self


def _cast(function: Callable, self: Logits, *args: Any, **kwargs: Any) -> Any:
    """To float32, or to where it is."""
    wanted = torch.float32 if function is Tensor.float else (args or (None,))[0]
    if kwargs or len(args) > 1:
        return NotImplemented
    if wanted in (self.recipe.dtype, self.recipe.hidden.device, str(self.recipe.hidden.device)):
        return self
    if wanted is not torch.float32 or self.recipe.steps:
        return NotImplemented
    return Logits(replace(self.recipe, dtype=wanted))


def _reshape(function: Callable, self: Logits, *args: Any, **kwargs: Any) -> Any:
    """Where the classes stay the last dimension."""
    shape = function(torch.empty(self.recipe.shape, device="meta"), *args, **kwargs).shape
    if not shape or shape[-1] != self.recipe.shape[-1]:
        return NotImplemented
    hidden = self.recipe.hidden
    return Logits(replace(self.recipe, hidden=hidden.reshape(*shape[:-1], hidden.shape[-1])))


def _rows(function: Callable, self: Logits, index: Any) -> Any:
    """Some of the rows, all of their classes."""
    indices = index if isinstance(index, tuple) else (index,)
    if not all(isinstance(one, int | slice | type(...)) for one in indices):
        return NotImplemented
    reaches = ... in indices or len(indices) == len(self.recipe.shape)
    if reaches and indices[-1] is not ... and indices[-1] != slice(None):
        return NotImplemented
    return Logits(replace(self.recipe, hidden=self.recipe.hidden[index]))


def _capping(step: int) -> Callable:
    def handle(function: Callable, self: Logits, *args: Any, **kwargs: Any) -> Any:
        own = self.recipe
        numbers = not kwargs and all(isinstance(one, int | float) for one in args)
        if own.steps != step or not numbers or (step == 2 and args[0] != own.cap) or (step == 0 and args[0] <= 0):
            return NotImplemented
        return Logits(replace(own, steps=step + 1, cap=float(args[0]) if step == 0 else own.cap))

    return handle


def _cross_entropy(function: Callable, self: Any, target: Any, weight: Tensor | None = None, size_average: Any = None,
                   ignore_index: int = -100, reduce: Any = None, reduction: str = "mean", label_smoothing: float = 0.0) -> Any:  # fmt: skip
    usual = size_average is None and reduce is None and isinstance(target, Tensor) and type(target) is not Logits
    if not usual or target.dim() != 1 or target.dtype != torch.int64 or len(self.recipe.shape) != 2 or self.recipe.steps not in (0, 3):
        return NotImplemented
    return self.recipe.cross_entropy(target, weight, ignore_index, reduction, label_smoothing)


HANDLERS: dict[Any, Callable] = {
    **dict.fromkeys((Tensor.shape.__get__, Tensor.dtype.__get__, Tensor.device.__get__, Tensor.ndim.__get__, Tensor.size, Tensor.dim), _known),
    **dict.fromkeys((Tensor.numel, Tensor.__len__, Tensor.is_floating_point, Tensor.layout.__get__, Tensor.is_nested.__get__), _known),
    Tensor.requires_grad.__get__: _requires_grad,
    Tensor.contiguous: _itself,
    **dict.fromkeys((Tensor.float, Tensor.to), _cast),
    **dict.fromkeys((Tensor.view, Tensor.reshape, Tensor.flatten, torch.flatten, torch.reshape), _reshape),
    Tensor.__getitem__: _rows,
    **dict.fromkeys((Tensor.div, Tensor.__truediv__, Tensor.true_divide, torch.div, torch.true_divide), _capping(0)),
    **dict.fromkeys((Tensor.tanh, torch.tanh), _capping(1)),
    **dict.fromkeys((Tensor.mul, Tensor.__mul__, Tensor.__rmul__, torch.mul), _capping(2)),
    F.cross_entropy: _cross_entropy,
}


class Head(Linear):
    """A linear map whose result is likely to go into a cross entropy."""

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight
        wanted = self.training and torch.is_grad_enabled() and (input.requires_grad or weight.requires_grad)
        if not wanted or torch.compiler.is_compiling() or not takes(input, weight) or type(input) is not Tensor:
            return super().forward(input)
        kind = input.device.type
        autocast = (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))
        watched = tuple((one, one._version) for one in (input, weight, self.bias) if one is not None)
        return Logits(Recipe(input, weight, self.bias, autocast[1] if autocast[0] else input.dtype, autocast, watched))
