"""Time and peak memory of a model as it was and as it is, by turns."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .example import example_inputs


@dataclass(frozen=True)
class Step:
    """Medians of seconds, and the most memory that a step took beyond what there was; None where it cannot be told."""

    seconds: dict[str, float]
    bytes: dict[str, int | None]

    @property
    def speedup(self) -> float:
        return self.seconds["original"] / self.seconds["converted"]


@dataclass(frozen=True)
class Measurement:
    forward: Step
    training: Step

    def __repr__(self) -> str:
        lines = []
        for name, step in (("forward", self.forward), ("training step", self.training)):
            times = ", ".join(f"{which} {seconds * 1e3:.1f} ms" for which, seconds in step.seconds.items())
            memory = ", ".join(f"{which} {count / 1e6:.0f} MB" for which, count in step.bytes.items() if count is not None)
            lines.append(f"{name}: {times}: {step.speedup:.2f}x" + (f"; peak memory {memory}" if memory else ""))
        return "\n".join(lines)


def loss_of(output: Any) -> Tensor:
    """The loss that a model gives itself, or one of all the numbers that it gives."""
    if isinstance(loss := getattr(output, "loss", None), Tensor):
        return loss
    numbers = [one for one in tree_leaves(output) if isinstance(one, Tensor) and one.requires_grad]
    return sum(one.float().square().mean() for one in numbers)


def train(model: nn.Module, inputs: tuple, named: dict) -> tuple[Tensor | None, ...]:
    """The gradients of all parameters that learn."""
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.autograd.grad(loss_of(model(*inputs, **named)), wanted, allow_unused=True)


def infer(model: nn.Module, inputs: tuple, named: dict) -> Any:
    with torch.no_grad():
        return model(*inputs, **named)


def measure(model: nn.Module, inputs: tuple, named: dict, steps: int) -> Measurement:
    from .convert import revert

    if not inputs and not named:
        inputs, named = example_inputs(model)
    original = copy.deepcopy(model)
    revert(original)
    models = {"original": original, "converted": model}
    device = next((one.device for one in model.parameters()), torch.device("cpu"))
    return Measurement(*(_step({name: partial(call, one, inputs, named) for name, one in models.items()}, steps, device) for call in (infer, train)))


def _step(calls: dict[str, Callable[[], object]], steps: int, device: torch.device) -> Step:
    from ..benchmarks.memory import peak_bytes
    from ..benchmarks.timing import Variant, wall_times

    times = wall_times([Variant(name, name, call) for name, call in calls.items()], device, min_rounds=max(steps, 2))
    return Step({name: timing.median for name, timing in times.items()}, {name: peak_bytes(call, device) for name, call in calls.items()})
