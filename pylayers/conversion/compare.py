"""Whether a converted module computes what the original does: outputs and gradients of both beside float64."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

# As kernels are judged: twice the error that there was, and rounding.
FACTOR, ROUNDINGS = 2.0, 2.0
# Numbers in parameters that are copied to float64 for a comparison.
LARGEST_COPY = 1 << 24

Call = Callable[..., Tensor]


@dataclass(frozen=True)
class Errors:
    """Of outputs and of gradients: the worst one, as a part of the largest number of its tensor."""

    forward: float
    backward: float


@dataclass(frozen=True)
class Verdict:
    ours: Errors
    original: Errors
    problem: str = ""


def run(call: Call, inputs: Sequence[Tensor], parameters: Sequence[Tensor], backward: bool = True) -> list[Tensor | None]:
    """The output, and the gradients of floating point inputs and of parameters by a gradient that is the same each time."""
    leaves = [one.detach().requires_grad_() if backward and one.is_floating_point() else one for one in inputs]
    with torch.set_grad_enabled(backward), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        output = call(*leaves)
        if not isinstance(output, Tensor):
            raise TypeError(f"returns {type(output).__name__}, not a Tensor")
        if not backward:
            return [output]
        generator = torch.Generator().manual_seed(1)
        incoming = torch.randn(output.shape, generator=generator).to(output.device, output.dtype)
        wanted = [one for one in (*leaves, *parameters) if one.requires_grad]
        gradients = torch.autograd.grad(output, wanted, incoming, allow_unused=True) if wanted else []
    return [output.detach(), *gradients]


def in_float64(module: nn.Module) -> tuple[nn.Module, list[Tensor]]:
    """A copy and its parameters that require a gradient."""
    twin = copy.deepcopy(module).double()
    return twin, [one for one in twin.parameters() if one.requires_grad]


def _error(found: Tensor | None, exact: Tensor | None) -> float:
    if found is None or exact is None:
        return 0.0 if found is exact else float("inf")
    if found.shape != exact.shape:
        return float("inf")
    if exact.numel() == 0:
        return 0.0
    scale = exact.double().abs().amax().clamp_min(torch.finfo(torch.float32).tiny)
    return float((found.double() - exact.double()).abs().amax() / scale)


def _errors(found: list[Tensor | None], exact: list[Tensor | None]) -> Errors:
    each = [_error(one, other) for one, other in zip(found, exact, strict=True)]
    return Errors(each[0], max(each[1:], default=0.0))


def compare(ours: list[Tensor | None], original: list[Tensor | None], exact: list[Tensor | None]) -> Verdict:
    verdict = Verdict(_errors(ours, exact), _errors(original, exact))
    rounding = ROUNDINGS * torch.finfo(original[0].dtype).eps
    for step in ("forward", "backward"):
        error, theirs = getattr(verdict.ours, step), getattr(verdict.original, step)
        if not error <= FACTOR * theirs + rounding:
            return Verdict(verdict.ours, verdict.original, f"{step} differs: error {error:.2g} beside float64, the original's is {theirs:.2g}")
    if ours[0].dtype != original[0].dtype:
        return Verdict(verdict.ours, verdict.original, f"gives {ours[0].dtype}, the original gives {original[0].dtype}")
    return verdict
