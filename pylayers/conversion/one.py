"""The conversion of one module: what it may become, the comparison with what it was, and the way back if it is not the same."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from . import affine, feed_forward, layers, norms
from .compare import LARGEST_COPY, Verdict, compare, in_float64, run
from .report import ConversionReport
from .swap import Swap, restore

SEED = 0


@dataclass(frozen=True)
class Candidate:
    """What a module may become, inputs to compare on, and what is exact where a float64 copy of the module is not."""

    swap: Swap
    inputs: Sequence[Tensor]
    exact: tuple[Callable[..., Tensor], list[Tensor]] | None = None  # with its parameters
    alike: bool = False  # only a comparison tells


def convert_one(name: str, module: nn.Module, verify: bool, report: ConversionReport) -> None:
    found = _candidate(module)
    if found is None:
        return
    if isinstance(found, str):
        return report.keep(name, module, found)
    was, verdict = type(module).__name__, None
    if found.alike and not (verify and _comparable(module)):
        return report.keep(name, module, "its forward is its own, and is not compared")
    if verify and _comparable(module):
        try:
            verdict = _compared(module, found)
        except Exception as error:  # noqa: BLE001 whatever a module of the user's raises
            return report.keep(name, module, f"could not be compared: {type(error).__name__}: {error}")
        if verdict.problem:
            return report.keep(name, module, verdict.problem, verdict)
    found.swap.apply(module)
    report.replace(name, was, found.swap.ours.__name__, verdict)


def _comparable(module: nn.Module) -> bool:
    """Whether it has numbers, and few enough for a copy in float64. Others are known by their class."""
    parameters = list(module.parameters())
    return not any(one.is_meta for one in parameters) and sum(one.numel() for one in parameters) <= LARGEST_COPY


def _candidate(module: nn.Module) -> Candidate | str | None:
    """None for modules that look like nothing we have."""
    generator = torch.Generator().manual_seed(SEED)
    if cls := layers.class_of(module):
        return Candidate(Swap(layers.BY_CLASS[cls]), layers.inputs_for(module, generator))
    if any(one.is_meta for one in module.parameters()):
        alike = norms.inputs_for(module, generator) is not None
        return "its parameters are on the meta device, and only numbers tell what it computes: convert it when it has them" if alike else None
    if cls := layers.base_of(module):
        return Candidate(Swap(layers.BY_CLASS[cls]), layers.inputs_for(module, generator), alike=True)
    with alone(module):
        return _norm(module, generator) or _affine(module, generator) or _feed_forward(module, generator)


def _norm(module: nn.Module, generator: torch.Generator) -> Candidate | str | None:
    inputs = norms.inputs_for(module, generator)
    if inputs is None:
        return None
    norm = _tried(norms.recognise, module, *inputs)
    if not isinstance(norm, norms.Norm):
        return norm
    weights = [one.detach().double().requires_grad_(one.requires_grad) for one in module.parameters()]
    exact = partial(norms.exact, norm, weights[0] if weights else None)
    return Candidate(Swap(norms.RMSNorm, norm), inputs, (exact, [one for one in weights if one.requires_grad]))


def _affine(module: nn.Module, generator: torch.Generator) -> Candidate | None:
    for inputs in affine.inputs_for(module, generator):
        if (found := _tried(affine.recognise, module, *inputs)) is not None:
            return Candidate(Swap(affine.AffineMap, found), inputs)
    return None


def _feed_forward(module: nn.Module, generator: torch.Generator) -> Candidate | str | None:
    if not 1 <= sum(any(True for _ in child.parameters()) for child in module.children()) <= 3 or isinstance(module, nn.ModuleList):
        return None
    problem = None
    for width in feed_forward.widths(module):
        inputs = feed_forward.inputs_for(module, width, generator)
        found = _tried(feed_forward.recognise, module, *inputs)
        if isinstance(found, feed_forward.FeedForward):
            ours = feed_forward.GatedMLP if found.second or found.packed else feed_forward.MLP
            return Candidate(Swap(ours, found), inputs)
        problem = problem or found
    named = type(module).forward is not nn.Sequential.forward  # whose modules are told one by one
    return problem if isinstance(problem, str) and named else None


def _tried(recognise: Callable, *arguments: object) -> object:
    try:
        return recognise(*arguments)
    except Exception:  # noqa: BLE001 a module that is called otherwise
        return None


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@contextmanager
def alone(module: nn.Module) -> Iterator[None]:
    """With dropout switched off and nobody told of calls; every mode and hook is as it was afterwards."""
    kept = [(one, {name: vars(one)[name] for name in (*_HOOKS, "training")}) for one in module.modules()]
    module.eval()
    for one, _ in kept:
        vars(one).update({name: OrderedDict() for name in _HOOKS})
    try:
        yield
    finally:
        for one, state in kept:
            vars(one).update(state)


def _compared(module: nn.Module, candidate: Candidate) -> Verdict:
    parameters = [one for one in module.parameters() if one.requires_grad]
    with alone(module):
        original = run(module, candidate.inputs, parameters)
        wide = [one.double() if one.is_floating_point() else one for one in candidate.inputs]
        call, weights = candidate.exact or in_float64(module)
        exact = run(call, wide, weights)
        candidate.swap.apply(module)
        try:
            ours = run(module, candidate.inputs, parameters)
        finally:
            restore(module)
    return compare(ours, original, exact)
