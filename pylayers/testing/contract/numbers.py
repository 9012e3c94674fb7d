"""The numbers: the same bits each time, close to float64 in every dtype, however the inputs lie in memory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

from ...check import compare
from ..layouts import LAYOUTS
from . import hidden
from .report import Broken, Skip
from .subject import Run, Subject, floating

# Without reference and rtol: the error that is allowed, in units of the last place of the largest value.
UNITS = 8
# Between two ways of doing the same: what is wrong is much further off.
CLOSE = 256


def same_bits_twice(subject: Subject) -> None:
    layer = subject.copy()
    first = subject.run(layer, subject.inputs_as())
    for _ in range(3):
        if what := first.differs(subject.run(subject.restore(layer), subject.inputs_as())):
            raise Broken(f"{what} has other bits in a second call: no state outside of buffers, no atomics, a fixed order of sums")


class _TorchAlone(TorchDispatchMode):
    """Torch's own operations, whose bits may depend on the number of threads, get one; the layer's own get what is set."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        count = torch.get_num_threads() if function.namespace == "aten" else 1
        if count == 1:
            return function(*args, **(kwargs or {}))
        torch.set_num_threads(1)
        try:
            return function(*args, **(kwargs or {}))
        finally:
            torch.set_num_threads(count)


def _thread_dependent(subject: Subject, around: AbstractContextManager) -> str:
    before = torch.get_num_threads()
    try:
        runs = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            with around:
                runs.append(subject.run(subject.copy(), subject.inputs_as()))
    finally:
        torch.set_num_threads(before)
    return runs[0].differs(runs[1]) or runs[0].differs(runs[2])


def same_bits_with_any_threads(subject: Subject) -> str:
    if subject.device.type != "cpu":
        raise Skip("a matter of the CPU")
    if not _thread_dependent(subject, nullcontext()):
        return ""
    what = _thread_dependent(subject, _TorchAlone())
    if what:
        raise Broken(f"{what} has other bits with more threads: split the work by its sizes alone")
    return "but for operations of torch itself, such as matrix products"


def _run_reference(subject: Subject, layer: nn.Module, inputs: tuple) -> Run:
    """A run of the reference, with parameters and buffers of `layer`."""
    run = subject.run(_Reference(layer, subject.reference), inputs)
    return Run(run.outputs, {name.removeprefix("layer."): one for name, one in run.gradients.items()})


class _Reference(nn.Module):
    def __init__(self, layer: nn.Module, reference: nn.Module | Callable):
        super().__init__()
        self.layer = layer
        self.definition = (reference,)  # in a tuple: no submodule

    def forward(self, *inputs):
        (definition,) = self.definition
        state = dict((*self.layer.named_parameters(), *self.layer.named_buffers()))
        if isinstance(definition, nn.Module):
            return functional_call(definition, state, inputs)
        return definition(*inputs, **{name.replace(".", "_"): one for name, one in state.items()})


def close_to_float64(dtype: torch.dtype) -> Callable[[Subject], str]:
    """The rule for one dtype. What is right is the reference in float64, or the layer itself where there is none."""

    def rule(subject: Subject) -> str:
        layer, inputs = subject.copy(dtype), subject.inputs_as(dtype)
        actual = subject.run(layer, inputs)
        wrong = [one.dtype for one in actual.outputs if one.is_floating_point() and one.dtype != dtype]
        if wrong:
            raise Broken(f"the output is {wrong[0]} where inputs and parameters are {dtype}: return the dtype of the input")
        rounded, doubles = subject.copy(dtype), tuple(one.double() if floating(one) else one for one in inputs)
        hidden.move(rounded, None, torch.float64)
        if subject.reference is None:
            return _compare(subject, dtype, actual, subject.run(rounded, doubles), None)
        exact = _run_reference(subject, rounded, doubles)
        plain = _run_reference(subject, subject.copy(dtype), inputs).named()
        return _compare(subject, dtype, actual, exact, plain)

    return rule


def _error_and_bound(subject: Subject, dtype: torch.dtype, found: Tensor, exact: Tensor, plain: Tensor | None) -> tuple[float, float]:
    """As numbers of the same kind: absolute, the largest of all elements."""
    if plain is not None and subject.rtol is None:
        result = compare(found, exact.double(), plain, ulps=UNITS if dtype == torch.float64 else 1)
        return result.error, result.bound
    fraction = UNITS * torch.finfo(dtype).eps if subject.rtol is None else subject.rtol
    if exact.numel() == 0:
        return 0.0, 1.0
    return float((found.double() - exact).abs().max()), fraction * max(float(exact.abs().max()), 1.0)


def _compare(subject: Subject, dtype: torch.dtype, actual: Run, exact: Run, plain: dict[str, Tensor] | None) -> str:
    found, worst = actual.named(), (0.0, "")
    for name, right in exact.named().items():
        if name not in found or not right.is_floating_point():
            continue
        if found[name].shape != right.shape:
            raise Broken(f"{name} has shape {tuple(found[name].shape)}, the reference's has {tuple(right.shape)}")
        error, bound = _error_and_bound(subject, dtype, found[name], right, plain and plain[name])
        if not error <= bound:  # a nan is no number within bounds
            raise Broken(f"{name} is off by {error:.2g} from float64, allowed is {bound:.2g}: compute sums and statistics in float32")
        worst = max(worst, (error / bound, name))
    return f"{worst[0]:.0%} of the allowed error ({worst[1]})" if worst[1] else ""


def _close(a: Run, b: Run) -> str:
    """What is not the same but for the order of sums; "" if nothing."""
    for name, one in a.named().items():
        other = b.named()[name]
        if not one.is_floating_point():
            continue
        bound = CLOSE * torch.finfo(one.dtype).eps * max(float(one.abs().max()), 1.0) if one.numel() else 0.0
        if one.shape != other.shape or not bool(((one - other).abs() <= bound).all()):
            return name
    return ""


def any_strides(subject: Subject) -> str:
    if subject.is_random():
        raise Skip("it draws random numbers in the order of memory")
    tried = []
    for name, layout in LAYOUTS.items():
        if not all(one.dim() > (name == "expanded") for one in subject.inputs if floating(one)):
            continue
        plain = subject.run(subject.copy(), subject.inputs_as(), lay=lambda one: layout(one).contiguous().clone())
        what = _close(plain, subject.run(subject.copy(), subject.inputs_as(), lay=layout))
        if what:
            raise Broken(f"{what} is another one where the inputs are {name}: use their strides, or .contiguous()")
        tried.append(name)
    return ", ".join(tried)


def any_strides_of_the_gradient(subject: Subject) -> None:
    def one_number(gradient: Tensor) -> Tensor:
        return gradient.reshape(-1)[:1].reshape([1] * gradient.dim()).expand(gradient.shape)

    for name, lay in {"expanded, as y.sum().backward() makes it": one_number, "transposed": LAYOUTS["transposed"]}.items():
        if name == "transposed" and any(one.dim() == 0 for one in subject.values(subject.copy(), subject.inputs_as())):
            continue
        plain = subject.run(subject.copy(), subject.inputs_as(), lay_gradient=lambda one: lay(one).contiguous().clone())
        if what := _close(plain, subject.run(subject.copy(), subject.inputs_as(), lay_gradient=lay)):
            raise Broken(f"{what} is another one where the incoming gradient is {name}: use its strides, or .contiguous()")


def no_rows(subject: Subject) -> None:
    first = next(one for one in subject.inputs if isinstance(one, Tensor))
    if first.dim() < 2:
        raise Skip("the input has no dimension of rows")
    rows = len(first)
    inputs = tuple(one[:0] if isinstance(one, Tensor) and one.dim() and len(one) == rows else one for one in subject.inputs_as())
    expected = subject.values(subject.copy(), subject.inputs_as())
    run = subject.run(subject.copy(), inputs)
    for index, (one, full) in enumerate(zip(run.outputs, expected, strict=True)):
        if full.dim() and len(full) == rows and one.shape != (0, *full.shape[1:]):
            raise Broken(f"output {index} of 0 rows has shape {tuple(one.shape)} instead of {(0, *full.shape[1:])}")
    for name, gradient in run.gradients.items():
        if gradient is not None and not bool((gradient == 0).all()):
            raise Broken(f"the gradient of {name} from 0 rows is not 0")
