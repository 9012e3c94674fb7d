"""Feed-forward modules of any name, told by watching one call: a child or two take the input, an activation follows, a last child takes
the result.

Gated, `down(act(gate(x)) * up(x))`, also with both from one packed child; or plain, `down(act(up(x)))`. The children are called as before,
whatever they are; what lies between them is one kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import functional
from .layers import Linear, takes, watched
from .swap import SETTINGS

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
}
GATES: dict[str, tuple[Callable, Callable]] = {
    "silu": (functional.swiglu, functional.swiglu_packed),
    "gelu": (functional.geglu, functional.geglu_packed),
    "gelu_tanh": (lambda a, b: functional.geglu(a, b, "tanh"), lambda x: functional.geglu_packed(x, "tanh")),
    "relu": (functional.reglu, functional.reglu_packed),
}


@dataclass(frozen=True)
class FeedForward:
    activation: str
    first: str  # gate; or the packed child, or the only one
    second: str  # up; empty if there is none
    last: str = ""  # empty where the result is what lies between
    packed: bool = False
    swapped: bool = False  # the second half of a packed child is the gate
    between: tuple[str, ...] = ()  # children that take what the last one then takes, and those behind the last one
    behind: tuple[str, ...] = ()


def _hidden(module: nn.Module, own: FeedForward, x: Tensor) -> Tensor:
    first = getattr(module, own.first)
    if own.second:
        return GATES[own.activation][0](first(x), getattr(module, own.second)(x))
    if not own.packed:
        if isinstance(first, Linear) and not watched(first):
            return functional.linear(x, *first.weight_and_bias(), activation=own.activation)
        return ACTIVATIONS[own.activation](first(x))
    both = first(x)
    if not own.swapped:
        return GATES[own.activation][1](both)
    up, gate = both.chunk(2, -1)
    return GATES[own.activation][0](gate, up)


class GatedMLP:
    def forward(self, x: Tensor, *others, **named) -> Tensor:
        own = self.__dict__[SETTINGS]
        if others or named or not takes(x):
            return super().forward(x, *others, **named)
        h = _hidden(self, own, x)
        for name in own.between:
            h = getattr(self, name)(h)
        for name in (own.last, *own.behind) if own.last else ():
            h = getattr(self, name)(h)
        return h


class MLP(GatedMLP):
    """Without a gate."""


@dataclass(frozen=True)
class Seen:
    """One call of a child."""

    name: str
    given: Tensor
    result: Tensor
    learns: bool


def _watch(module: nn.Module, x: Tensor) -> tuple[list[Seen], Tensor] | None:
    """The children's calls, in order, and the result; None if one takes or gives anything but a Tensor."""
    seen, hooks, strange = [], [], []

    def note(name: str) -> Callable:
        def hook(child: nn.Module, given: tuple, named: dict, result: object) -> None:
            if len(given) != 1 or named or not isinstance(given[0], Tensor) or not isinstance(result, Tensor):
                strange.append(name)
            else:
                learns = any(True for _ in child.parameters())
                seen.append(Seen(name, given[0].detach().clone(), result.detach().clone(), learns))

        return hook

    try:
        for name, child in module.named_children():
            hooks.append(child.register_forward_hook(note(name), with_kwargs=True))
        with torch.no_grad():
            y = module(x)
    finally:
        for hook in hooks:
            hook.remove()
    return (seen, y) if seen and not strange and isinstance(y, Tensor) else None


def widths(module: nn.Module) -> list[int]:
    """What the last dimension of the input may be: matrices are (out, in), or (in, out) in GPT-2."""
    matrices = [one.shape for child in module.children() for one in child.parameters() if one.dim() == 2]
    return list(dict.fromkeys([*(shape[1] for shape in matrices), *(shape[0] for shape in matrices)]))


def inputs_for(module: nn.Module, width: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    like = next(module.parameters())
    return (torch.randn(2, 3, width, generator=generator).to(like.device, like.dtype),)


def recognise(module: nn.Module, x: Tensor) -> FeedForward | str | None:
    """What the module computes of x; why not, for one that looks like ours; None for others."""
    found = _watch(module, x)
    if found is None:
        return None
    seen, y = found
    takers = [one for one in seen if one.given.shape == x.shape and torch.equal(one.given, x)]
    if not 1 <= len(takers) <= 2 or len({one.name for one in seen}) != len(seen):
        return None
    others = [one for one in seen if one not in takers]
    made = _made(takers, others, y)
    if made is None:
        width = {takers[0].result.shape[-1], takers[0].result.shape[-1] // 2}
        like_one = any(one.learns and one.given.shape[-1] in width and torch.equal(one.result, y) for one in others)
        return "has no activation that is known" if like_one else None
    return _with_dropout(module, *made, others)


def _made(takers: list[Seen], others: list[Seen], y: Tensor) -> tuple[FeedForward, int] | None:
    """By numbers: the child with parameters whose input is an activation, gated or not, of what the takers gave, and whose result is the
    module's; or the module whose result that is. With the place of the child."""
    ends = [(one.name, index, one.given) for index, one in enumerate(others) if one.learns and torch.equal(one.result, y)]
    for last, place, hidden in (*ends, ("", len(others), y)):
        for name, activation in ACTIVATIONS.items():
            for own, expected in _candidates(name, activation, takers):
                if expected.shape == hidden.shape and _close(expected, hidden) and (last or own.second or own.packed):
                    return replace(own, last=last), place
    return None


def _candidates(name: str, activation: Callable, takers: list[Seen]):
    a = takers[0].result.float()
    if len(takers) == 2:
        b = takers[1].result.float()
        if a.shape == b.shape:
            yield FeedForward(name, takers[0].name, takers[1].name), activation(a) * b
            yield FeedForward(name, takers[1].name, takers[0].name), activation(b) * a
        return
    yield FeedForward(name, takers[0].name, ""), activation(a)
    if a.shape[-1] % 2 == 0:
        one, two = a.chunk(2, -1)
        yield FeedForward(name, takers[0].name, "", packed=True), activation(one) * two
        yield FeedForward(name, takers[0].name, "", packed=True, swapped=True), activation(two) * one


def _close(a: Tensor, b: Tensor) -> bool:
    """Apart from roundings; gelu and its tanh form are 1e-3 apart."""
    bound = 4 * torch.finfo(b.dtype).eps
    return bool((a - b.float()).abs().amax() <= bound * a.abs().amax())


def _with_dropout(module: nn.Module, own: FeedForward, place: int, others: list[Seen]) -> FeedForward | str:
    """With the children that change nothing here, of which dropout does something in training."""
    between, behind = [], []
    for index, one in enumerate(others):
        child = getattr(module, one.name)
        if isinstance(child, nn.Dropout):
            (behind if index > place else between).append(one.name)
        elif index != place and not isinstance(child, nn.Identity) and (index > place or one.learns or watched(child)):
            return f"what {one.name} does is not known"
    return replace(own, between=tuple(between), behind=tuple(behind))
