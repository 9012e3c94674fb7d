"""The layer that is looked at: copies of it, and calls with everything that a rule may want to see afterwards."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_flatten

from . import hidden
from .report import Broken, Skip


def floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def tensors_in(result: Any) -> list[Tensor]:
    """The tensors that a layer returned, alone or in tuples, lists and dicts."""
    return [one for one in tree_flatten(result)[0] if isinstance(one, Tensor)]


def same_bits(a: Tensor | None, b: Tensor | None) -> bool:
    """Also where both are NaN."""
    if a is None or b is None:
        return a is b
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return torch.equal(a, b) or bool(((a == b) | ((a != a) & (b != b))).all())


def names(found: Iterable[str]) -> str:
    return ", ".join(repr(one) for one in found)


@dataclass(frozen=True)
class Run:
    """One forward and backward.

    Attributes:
        outputs: the floating point tensors first to last, detached, and the others.
        gradients: by "input 0" and by the parameter's name; None for what got none.
    """

    outputs: list[Tensor]
    gradients: dict[str, Tensor | None]

    def differs(self, other: Run) -> str:
        """What is not the same, bit by bit; "" if nothing."""
        if len(self.outputs) != len(other.outputs):
            return "the number of outputs"
        for index, pair in enumerate(zip(self.outputs, other.outputs, strict=True)):
            if not same_bits(*pair):
                return f"output {index}"
        for name, gradient in self.gradients.items():
            if not same_bits(gradient, other.gradients.get(name)):
                return f"the gradient of {name}"
        return ""

    def named(self) -> dict[str, Tensor]:
        """Outputs and the gradients that there are."""
        outputs = {f"output {index}": one for index, one in enumerate(self.outputs)}
        return outputs | {f"the gradient of {name}": one for name, one in self.gradients.items() if one is not None}


@dataclass
class Subject:
    """What is looked at, and how.

    Attributes:
        layer: never run, so that no call leaves traces in it. If it cannot be copied, it is run after all.
        make: makes one with device= and dtype=, or None.
        inputs: of one call. Tensors among them are not written to, nor is `.grad` of the parameters.
        reference, rtol, demand, updates, compile_backend: see check_layer.
    """

    layer: nn.Module
    make: Callable[..., nn.Module] | None
    inputs: tuple[Any, ...]
    reference: nn.Module | Callable | None = None
    rtol: float | None = None
    demand: Sequence[str] = ()
    updates: Sequence[str] = ()
    compile_backend: str = "aot_eager"
    device: torch.device = field(init=False)
    before: dict[str, Tensor] = field(init=False)  # values of parameters and buffers

    def __post_init__(self) -> None:
        found = [one for one in self.inputs if isinstance(one, Tensor)]
        if not found:
            raise TypeError("check_layer: the inputs must have a Tensor among them, got none")
        self.device = found[0].device
        if any(is_lazy(one) for one in self.layer.parameters()):
            self.layer = copy.deepcopy(self.layer)
            self.layer(*self.inputs)
        hidden.move(self.layer, self.device, None)
        self.before = {name: one.detach().clone() for name, one in self.state(self.layer).items()}

    @staticmethod
    def state(layer: nn.Module) -> dict[str, Tensor]:
        return dict((*layer.named_parameters(), *layer.named_buffers()))

    @property
    def name(self) -> str:
        return type(self.layer).__name__

    def restore(self, layer: nn.Module) -> nn.Module:
        """Puts back the values of parameters and buffers."""
        with torch.no_grad():
            for name, one in self.state(layer).items():
                if name in self.before:
                    one.data = self.before[name].to(one.device, one.dtype).clone()
        return layer

    def copy(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> nn.Module:
        """A layer with the values of this one, moved as a whole: what it hides from torch too."""
        try:
            layer = copy.deepcopy(self.layer)
        except Exception:
            if dtype or device:
                raise Skip("the layer cannot be copied: see 'deepcopy'") from None
            for name, one in self.state(self.layer).items():
                one.data = self.before[name].clone()
            return self.layer
        hidden.move(layer, device, dtype)
        return layer

    def inputs_as(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> tuple[Any, ...]:
        """Copies of the inputs; floating point tensors in that dtype."""

        def moved(one: Any) -> Any:
            if not isinstance(one, Tensor):
                return one
            return one.detach().to(device=device, dtype=dtype if floating(one) else None, copy=True)

        return tuple(map(moved, self.inputs))

    def call(self, layer: Callable, inputs: Sequence[Any], seed: int = 0) -> list[Tensor]:
        """The tensors that it returns. Random layers draw the same numbers each time."""
        torch.manual_seed(seed)
        outputs = tensors_in(layer(*inputs))
        if not outputs:
            raise Broken("forward returns no tensor: return one, or a tuple, list or dict of tensors")
        return outputs

    def is_random(self) -> bool:
        """Whether it draws random numbers."""
        with torch.no_grad():
            one, other = (self.call(self.copy(), self.inputs_as(), seed) for seed in (0, 1))
        return not all(same_bits(*pair) for pair in zip(one, other, strict=True))

    def values(self, layer: Callable, inputs: Sequence[Any]) -> list[Tensor]:
        """A call without gradients."""
        with torch.no_grad():
            return [one.detach() for one in self.call(layer, inputs)]

    def run(
        self,
        layer: nn.Module,
        inputs: Sequence[Any],
        lay: Callable[[Tensor], Tensor] = torch.clone,
        lay_gradient: Callable[[Tensor], Tensor] = torch.clone,
    ) -> Run:
        """Forward and backward. The layer gets `lay(input)`: no leaf, so that writing to it can be found out."""
        leaves = {f"input {i}": one.detach().requires_grad_() for i, one in enumerate(inputs) if floating(one)}
        given = [lay(leaves[f"input {i}"]) if floating(one) else one for i, one in enumerate(inputs)]
        with torch.enable_grad():
            outputs = self.call(layer, given)
            wanted = leaves | {name: one for name, one in layer.named_parameters() if one.requires_grad}
            gradients = gradients_of(outputs, wanted, lay_gradient)
        return Run([one.detach() for one in outputs], gradients)


def some(like: Tensor, seed: int = 0) -> Tensor:
    """Normal numbers in the shape of `like`, the same for every dtype up to its rounding."""
    numbers = torch.randn(like.shape, generator=torch.Generator().manual_seed(seed + like.numel()), dtype=torch.float32)
    return numbers.to(like.device, like.dtype)


def gradients_of(
    outputs: Sequence[Tensor], wanted: Mapping[str, Tensor], lay: Callable[[Tensor], Tensor] = torch.clone
) -> dict[str, Tensor | None]:
    """Of a fixed weighted sum of the outputs."""
    reached = [one for one in outputs if one.requires_grad]
    if not reached or not wanted:
        return dict.fromkeys(wanted)
    incoming = [lay(some(one.detach(), seed)) for seed, one in enumerate(reached)]
    found = torch.autograd.grad(reached, list(wanted.values()), incoming, allow_unused=True)
    return {name: None if one is None else one.detach() for name, one in zip(wanted, found, strict=True)}
