"""Gradients arrive where they must, are right, and are computed only where somebody asks."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from . import hidden
from .report import Broken, Skip
from .subject import Run, Subject, floating, gradients_of, names, same_bits, some

SUPPORTED_NOT = (NotImplementedError, RuntimeError, TypeError)


def _depends(subject: Subject, name: str) -> bool:
    """Whether the output changes with a parameter."""
    layer = subject.copy()
    before = subject.values(layer, subject.inputs_as())
    with torch.no_grad():
        one = layer.get_parameter(name)
        one.data = one.data + some(one.data, 1)
    after = subject.values(layer, subject.inputs_as())
    return any(not same_bits(*pair) for pair in zip(before, after, strict=True))


def reach_parameters(subject: Subject) -> str:
    layer = subject.copy()
    found = subject.run(layer, subject.inputs_as()).gradients
    wanted = [name for name, one in layer.named_parameters() if one.requires_grad]
    cut = [name for name in wanted if found[name] is None and _depends(subject, name)]
    if cut:
        raise Broken(
            f"the output depends on {names(cut)}, which get no gradient and never train: "
            "use the Parameter itself, without .data, .detach(), .item() or torch.tensor()"
        )
    endless = [name for name in wanted if found[name] is not None and not found[name].isfinite().all()]
    if endless:
        raise Broken(f"the gradient of {names(endless)} is not finite")
    unused = [name for name in wanted if found[name] is None]
    return f"the output does not depend on {names(unused)}" if unused else ""


def reach_inputs(subject: Subject) -> None:
    layer = subject.copy()
    found = subject.run(layer, subject.inputs_as()).gradients
    before = subject.values(layer, subject.inputs_as())
    for index, one in enumerate(subject.inputs):
        if not floating(one) or found[f"input {index}"] is not None:
            continue
        others = list(subject.inputs_as())
        others[index] = others[index] + some(one, 1)
        after = subject.values(subject.restore(layer), others)
        if any(floating(b) and not same_bits(a, b) for a, b in zip(before, after, strict=True)):
            raise Broken(f"the output depends on input {index}, which gets no gradient: do not detach it in forward")


def _functional(subject: Subject) -> tuple[Callable, list[Tensor]]:
    """The layer in float64 as a function of the inputs and parameters that get gradients, and these."""
    layer, inputs = subject.copy(torch.float64), subject.inputs_as(torch.float64)
    found = subject.run(layer, inputs).gradients
    of_inputs = [i for i in range(len(inputs)) if found.get(f"input {i}") is not None]
    of_parameters = [name for name, _ in layer.named_parameters() if found.get(name) is not None]
    subject.restore(layer)

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        given = [one.clone() if isinstance(one, Tensor) else one for one in inputs]
        for index, one in zip(of_inputs, tensors, strict=False):
            given[index] = one.clone()
        named = {name: one.clone() for name, one in zip(of_parameters, tensors[len(of_inputs) :], strict=True)}
        outputs = subject.call(lambda *those: functional_call(layer, named, those), given)
        return tuple(one for one in outputs if floating(one))

    leaves = [inputs[i] for i in of_inputs] + [layer.get_parameter(name).detach() for name in of_parameters]
    if not leaves:
        raise Skip("nothing gets a gradient")
    return function, [one.requires_grad_() for one in leaves]


CHECKS = dict(check_undefined_grad=False, check_batched_grad=False, fast_mode=True)
ADVICE = "compare the formula of backward with finite differences in float64"


def first_derivatives(subject: Subject) -> None:
    function, leaves = _functional(subject)
    try:
        torch.autograd.gradcheck(function, leaves, **CHECKS)
    except GradcheckError as error:
        raise Broken(f"backward disagrees with finite differences ({_first_line(error)}): {ADVICE}") from None


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(":,.") if str(error).strip() else type(error).__name__


def _optional(subject: Subject, name: str, check: Callable[[], bool]) -> None:
    """What a layer need not have. Where it has it and it is wrong, it is silently wrong."""
    try:
        check()
    except GradcheckError as error:
        raise Broken(f"silently wrong ({_first_line(error)}): make it right, or let it raise") from None
    except SUPPORTED_NOT as error:
        told = f"not supported ({_first_line(error)})"
        if name in subject.demand:
            raise Broken(told) from None
        raise Skip(f"{told}; demand={[name]!r} insists on it") from None


def second_derivatives(subject: Subject) -> None:
    function, leaves = _functional(subject)

    def check() -> bool:
        _differentiate_twice(function, leaves)
        return torch.autograd.gradgradcheck(function, leaves, **CHECKS)

    _optional(subject, "second derivatives", check)


def _differentiate_twice(function: Callable, leaves: list[Tensor]) -> None:
    """Goes into every node of backward's graph, also those that raise, which gradgradcheck may not reach."""
    outputs = [one for one in function(*leaves) if one.requires_grad]
    incoming = [some(one.detach()).requires_grad_() for one in outputs]
    first = torch.autograd.grad(outputs, leaves, incoming, create_graph=True, allow_unused=True)
    reached = [one for one in first if one is not None and one.requires_grad]
    if reached:
        torch.autograd.backward(reached, [torch.ones_like(one) for one in reached])
    for one in leaves:
        one.grad = None


def forward_mode(subject: Subject) -> None:
    function, leaves = _functional(subject)
    options = CHECKS | dict(check_forward_ad=True, check_backward_ad=False)
    _optional(subject, "forward-mode derivatives", lambda: torch.autograd.gradcheck(function, leaves, **options))


def frozen_parameters(subject: Subject) -> None:
    layer = subject.copy()
    if not list(layer.parameters()):
        raise Skip("there are no parameters")
    expected = subject.run(layer, subject.inputs_as())
    frozen = subject.copy().requires_grad_(False)
    try:
        found = subject.run(frozen, subject.inputs_as())
    except Exception as error:
        raise Broken(f"with requires_grad=False on the parameters it raises {type(error).__name__}: {_first_line(error)}") from None
    thawed = [name for name, one in frozen.named_parameters() if one.requires_grad]
    if thawed:
        raise Broken(f"forward turns requires_grad of {names(thawed)} on again: that is for the user to say")
    kept = {name: one for name, one in expected.gradients.items() if name in found.gradients}
    if what := found.differs(Run(expected.outputs, kept)):
        raise Broken(f"with requires_grad=False on the parameters {what} is another one")


class _Produced(TorchDispatchMode):
    """The elements of all tensors that operations make, and where these are."""

    def __init__(self):
        super().__init__()
        self.elements = 0
        self.places: set[int] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for one in tree_leaves(result):
            if isinstance(one, Tensor) and one.numel() and not function.is_view:
                self.elements += one.numel()
                self.places.add(one.untyped_storage().data_ptr())
        return result


def _backward_work(subject: Subject, frozen: bool) -> tuple[_Produced, dict[str, Tensor | None]]:
    layer = subject.copy()
    if frozen:
        layer.requires_grad_(False)
    inputs = subject.inputs_as()
    leaves = {f"input {i}": one.requires_grad_() for i, one in enumerate(inputs) if floating(one)}
    with torch.enable_grad():
        outputs = subject.call(layer, [one.clone() if floating(one) else one for one in inputs])
        wanted = leaves | {name: one for name, one in layer.named_parameters() if one.requires_grad}
        with _Produced() as produced:
            return produced, gradients_of(outputs, wanted)


def only_those_asked_for(subject: Subject) -> None:
    """Backward with the parameters frozen must do less than with all of them asked for."""
    every, gradients = _backward_work(subject, frozen=False)
    made = [
        name
        for name, one in gradients.items()
        if one is not None and not name.startswith("input ") and one.untyped_storage().data_ptr() in every.places
    ]
    if not made:
        raise Skip("no parameter has a gradient that takes work of its own")
    if all(one is None for name, one in gradients.items() if name.startswith("input ")):
        raise Skip("no input gets a gradient: with frozen parameters there is no backward")
    frozen, _ = _backward_work(subject, frozen=True)
    if frozen.elements >= every.elements:
        raise Broken(
            f"backward computes the gradient of {names(made)} also where nobody asks for it: "
            "look at ctx.needs_input_grad (ctx->needs_input_grad in C++)"
        )


def nothing_without_grad(subject: Subject) -> None:
    layer = subject.copy()
    saved: list[Tensor] = []
    with torch.no_grad(), torch.autograd.graph.saved_tensors_hooks(lambda one: saved.append(one) or one, lambda one: one):
        outputs = subject.call(layer, subject.inputs_as())
    if saved or any(one.requires_grad for one in outputs):
        raise Broken("under torch.no_grad() it still saves tensors for a backward: take torch.enable_grad() out of forward")


def keeps_nothing(subject: Subject) -> None:
    layer, inputs = subject.copy(), subject.inputs_as()
    seen = [one for one in (*inputs, *subject.values(layer, inputs)) if isinstance(one, Tensor) and one.numel()]
    places = {one.untyped_storage().data_ptr() for one in seen} - {one.untyped_storage().data_ptr() for one in layer.parameters()}
    advice = "the memory stays taken between calls, return what others need instead of storing it in self"
    for held in hidden.tensors(layer):
        if held.value.untyped_storage().data_ptr() in places:
            raise Broken(f"the layer keeps a tensor of its last call in {held.path!r}: {advice}")
    references = [weakref.ref(one) for one in seen]
    del inputs, seen
    if any(one() is not None for one in references):
        gc.collect()  # a cycle is no fault
    if any(one() is not None for one in references):
        raise Broken(f"the layer keeps a tensor of its last call: {advice}")
