"""The whole contract of a layer, on anybody's layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .contract import gradients, numbers, running, safety, state
from .contract.report import Broken, Outcome, Report, Skip
from .contract.subject import Subject


@dataclass(frozen=True)
class Rule:
    """Looked at unless one of `after` is broken, which it could not be told from."""

    name: str
    look: Callable[[Subject], str | None]
    after: tuple[str, ...] = ()


TWICE, SYNC, INPUTS, PARAMETERS = "same bits twice", "no device sync", "inputs unchanged", "parameters unchanged"
SAVED, INCOMING, FIRST = "saved tensors unchanged", "incoming gradient unchanged", "first derivatives"

RULES = (
    Rule(INPUTS, safety.inputs_unchanged),
    Rule(PARAMETERS, safety.parameters_unchanged),
    Rule("buffers unchanged", safety.buffers_unchanged),
    Rule(SAVED, safety.saved_tensors_unchanged),
    Rule(INCOMING, safety.incoming_gradient_unchanged),
    Rule(TWICE, numbers.same_bits_twice),
    Rule("same bits with any number of threads", numbers.same_bits_with_any_threads, (TWICE,)),
    Rule("gradients reach every parameter", gradients.reach_parameters, (TWICE,)),
    Rule("gradients reach every input", gradients.reach_inputs, (TWICE,)),
    Rule(FIRST, gradients.first_derivatives, (TWICE, PARAMETERS, SAVED, INCOMING)),
    Rule("second derivatives", gradients.second_derivatives, (TWICE, PARAMETERS, SAVED, INCOMING, FIRST)),
    Rule("forward-mode derivatives", gradients.forward_mode, (TWICE, FIRST)),
    Rule("output may be edited", safety.output_may_be_edited, (TWICE, PARAMETERS)),
    Rule("frozen parameters", gradients.frozen_parameters, (TWICE,)),
    Rule("no gradient that nobody asked for", gradients.only_those_asked_for, ("frozen parameters",)),
    Rule("nothing saved without grad", gradients.nothing_without_grad),
    Rule("keeps nothing of a call", gradients.keeps_nothing),
    *(
        Rule(str(dtype).removeprefix("torch."), numbers.close_to_float64(dtype), (TWICE,))
        for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16)
    ),
    Rule("any strides", numbers.any_strides, (TWICE, INPUTS)),
    Rule("any strides of the incoming gradient", numbers.any_strides_of_the_gradient, (TWICE, INCOMING)),
    Rule("no rows", numbers.no_rows),
    Rule("no hidden tensors", state.no_hidden_tensors),
    Rule("no hidden modules", state.no_hidden_modules),
    Rule("plain parameters", state.plain_parameters),
    Rule("state_dict round trip", state.state_dict_round_trip, (TWICE,)),
    Rule("deepcopy", state.deepcopy, (TWICE,)),
    Rule("pickle", state.pickling, (TWICE,)),
    Rule(SYNC, running.no_device_sync),
    Rule("meta device", state.meta_device, (SYNC,)),
    Rule("to_empty", state.to_empty, (TWICE, "state_dict round trip")),
    Rule("follows .to(dtype)", state.follows_to),
    Rule("device= and dtype=", state.device_and_dtype_arguments),
    Rule("reset_parameters", state.reset_parameters),
    Rule("train and eval", running.train_and_eval),
    Rule("torch.compile", running.compiles, (TWICE, SYNC)),
    Rule("autocast", running.autocast, (TWICE,)),
    Rule("readable repr", running.readable),
    Rule("bad input gets a sentence", running.bad_input),
)


def _outcome(rule: Rule, subject: Subject, failed: Sequence[str]) -> Outcome:
    broken = [name for name in rule.after if name in failed]
    if broken:
        return Outcome(rule.name, "skipped", f"{broken[0]!r} is broken, so this cannot be told")
    try:
        return Outcome(rule.name, "pass", rule.look(subject) or "")
    except Skip as reason:
        return Outcome(rule.name, "skipped", str(reason))
    except Broken as sentence:
        return Outcome(rule.name, "FAIL", str(sentence))
    except Exception as error:
        told = " ".join(str(error).split())[:200]
        return Outcome(rule.name, "FAIL", f"the layer raises {type(error).__name__}: {told}")


@contextmanager
def _process_left_as_it_was() -> Iterator[None]:
    """One thread is enough for a few rows; the rule about threads sets its own."""
    generator, threads = torch.random.get_rng_state(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.random.set_rng_state(generator)


def check_layer(
    layer: nn.Module | Callable[..., nn.Module],
    *inputs: Any,
    reference: nn.Module | Callable | None = None,
    rtol: float | None = None,
    updates: Sequence[str] = (),
    demand: Sequence[str] = (),
    only: Sequence[str] | None = None,
    compile_backend: str = "aot_eager",
) -> Report:
    """Looks at every rule that a layer of this package keeps, on any layer.

    Args:
        layer: a module, which is copied and left as it is, or better a function (or class) that makes one with `device=` and
            `dtype=`: `lambda **kind: MyLayer(8, **kind)`.
        inputs: of one call, on the device that is to be checked. A few rows are enough.
        reference: what the layer is to compute: a module with the same parameter names, or a function that is called with the
            inputs, and with parameters and buffers by keyword (`a.weight` as `a_weight`). In each dtype the layer may have twice
            the error that the reference in plain PyTorch has. Without, right is what the layer itself computes in float64, and
            8 units in the last place of the largest value are allowed.
        rtol: the error that is allowed instead, as a fraction of the largest value.
        updates: names of buffers that training is to change, such as running means.
        demand: of "second derivatives" and "forward-mode derivatives" those that the layer must support. A layer that does not is
            told so; one that gives wrong ones silently fails in any case.
        only: names of rules, if not all are to be looked at.
        compile_backend: of torch.compile. "inductor" generates code, which takes seconds.

    Returns:
        A report. `print(report)` shows a line for each rule: pass, FAIL with what to do, skipped with the reason.

    Raises:
        TypeError: no input is a Tensor, or `layer` makes no module.
        ValueError: there is no such rule.

    Example:
        >>> check_layer(lambda **kind: MyLayer(8, **kind), torch.randn(4, 8)).raise_if_failed()
    """
    known = [rule.name for rule in RULES]
    for name in (*(only or ()), *demand):
        if name not in known:
            raise ValueError(f"check_layer: there is no rule {name!r}; there are {', '.join(known)}")
    with _process_left_as_it_was():
        make = None if isinstance(layer, nn.Module) else layer
        instance = make() if make else layer
        if not isinstance(instance, nn.Module):
            raise TypeError(f"check_layer: layer must be a Module, or a function that makes one, got {type(instance).__name__}")
        subject = Subject(instance, make, inputs, reference, rtol, tuple(demand), tuple(updates), compile_backend)
        outcomes: list[Outcome] = []
        for rule in RULES:
            if only is None or rule.name in only:
                outcomes.append(_outcome(rule, subject, [one.rule for one in outcomes if one.verdict == "FAIL"]))
    return Report(subject.name, tuple(outcomes))
