"""What a layer holds: all of it seen by torch, saved, loaded, copied and moved."""

from __future__ import annotations

import copy
import pickle

import torch
from torch import Tensor, nn

from . import hidden
from .report import Broken, Skip
from .subject import Subject, names, same_bits, some

_ELSEWHERE = 5_724_961_083  # a seed that nobody makes a layer with: what it draws is not what the layer has


def _same_values(subject: Subject, layer: nn.Module) -> bool:
    expected = subject.values(subject.copy(), subject.inputs_as())
    found = subject.values(layer, subject.inputs_as())
    return len(expected) == len(found) and all(same_bits(*pair) for pair in zip(expected, found, strict=True))


def no_hidden_tensors(subject: Subject) -> None:
    found = hidden.tensors(subject.layer)
    if found:
        raise Broken(
            f"{names(one.path for one in found)} is a tensor in a plain attribute, which is not saved and does not follow .to(): "
            "use register_buffer, or nn.Parameter if it is trained"
        )


def no_hidden_modules(subject: Subject) -> None:
    found = hidden.modules(subject.layer)
    if found:
        raise Broken(
            f"{names(one.path for one in found)} is a module that torch does not see, so that it is not trained, saved or moved: "
            "use nn.ModuleList, nn.ModuleDict or an attribute of its own"
        )


def plain_parameters(subject: Subject) -> None:
    found = [f"{name} ({type(one).__name__})" for name, one in subject.layer.named_parameters() if type(one) is not nn.Parameter]
    if found:
        raise Broken(f"{', '.join(found)} is a subclass of nn.Parameter: optimizers and checkpoints expect the plain class")


def state_dict_round_trip(subject: Subject) -> None:
    """Into a layer with other values, through strict=True."""
    state = {name: one.detach().clone() if isinstance(one, Tensor) else one for name, one in subject.copy().state_dict().items()}
    torch.manual_seed(_ELSEWHERE)
    fresh = subject.make() if subject.make else subject.copy()
    hidden.move(fresh, subject.device, None)
    for mine, theirs in zip(hidden.tensors(fresh), hidden.tensors(subject.copy()), strict=False):
        mine.replace(theirs.value)
    fresh.train(subject.layer.training)
    saved = {one.data_ptr() for one in fresh.state_dict(keep_vars=True).values() if isinstance(one, Tensor)}
    for one in (*fresh.parameters(), *fresh.buffers()):
        if one.is_floating_point() and one.data_ptr() in saved:
            one.data = one.data + some(one.data, 2)
    try:
        fresh.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise Broken(f"its own state_dict does not load with strict=True: {' '.join(str(error).split())[:200]}") from None
    if not _same_values(subject, fresh):
        raise Broken("after load_state_dict it computes other values: something that matters is not in the state_dict (a buffer?)")


def deepcopy(subject: Subject) -> None:
    try:
        twin = copy.deepcopy(subject.layer)
    except Exception as error:
        raise Broken(f"copy.deepcopy raises {type(error).__name__}: {error}; keep only what can be copied in attributes") from None
    mine = {one.data_ptr() for one in (*subject.layer.parameters(), *subject.layer.buffers()) if one.numel()}
    if any(one.data_ptr() in mine for one in (*twin.parameters(), *twin.buffers())):
        raise Broken("a deep copy shares memory with the original")
    if not _same_values(subject, twin):
        raise Broken("a deep copy computes other values")


def pickling(subject: Subject) -> None:
    try:
        twin = pickle.loads(pickle.dumps(subject.layer))
    except Exception as error:
        raise Broken(
            f"pickle raises {type(error).__name__}: {error}; no lambdas, local classes, locks or handles in attributes"
        ) from None
    if not _same_values(subject, twin):
        raise Broken("what comes back from pickle computes other values")


def _on_meta(subject: Subject) -> nn.Module:
    if not subject.make:
        return subject.copy(device="meta")
    try:
        layer = subject.make(device="meta")
    except TypeError:
        return subject.copy(device="meta")
    hidden.move(layer, "meta", None)
    layer.train(subject.layer.training)
    return layer


def meta_device(subject: Subject) -> None:
    expected = subject.values(subject.copy(), subject.inputs_as())
    layer = _on_meta(subject)
    try:
        shapes = [one.shape for one in subject.values(layer, subject.inputs_as(device="meta"))]
    except Exception as error:
        raise Broken(f"on the meta device forward raises {type(error).__name__}: {_short(error)}; an op needs a meta kernel") from None
    if shapes != [one.shape for one in expected]:
        raise Broken(f"on the meta device the shapes are {shapes} instead of {[one.shape for one in expected]}")


def to_empty(subject: Subject) -> None:
    """Meta, memory, then values: how large models are loaded."""
    layer = _on_meta(subject)
    layer.to_empty(device=subject.device)
    for one in (*layer.parameters(), *layer.buffers()):
        if one.is_floating_point():
            one.data = torch.full_like(one.data, float("nan"))
    for held in hidden.tensors(layer):
        for own in hidden.tensors(subject.layer):
            if own.path == held.path:
                held.replace(own.value.detach().clone())
    for held, own in zip(hidden.modules(layer), hidden.modules(subject.layer), strict=False):
        held.replace(copy.deepcopy(own.value))
    layer.load_state_dict(subject.copy().state_dict(), strict=False)
    if not _same_values(subject, layer):
        raise Broken(
            "after meta, to_empty() and load_state_dict it computes other values: "
            "what the constructor computes and does not save must be made again in reset_parameters() or be saved"
        )


def _short(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:160]


def follows_to(subject: Subject) -> None:
    layer = subject.copy()
    layer.to(torch.float64)
    stayed = [name for name, one in subject.state(layer).items() if one.is_floating_point() and one.dtype != torch.float64]
    if stayed:
        raise Broken(f"after .to(torch.float64), {names(stayed)} still has another dtype: do not override _apply or to()")


def device_and_dtype_arguments(subject: Subject) -> None:
    if not subject.before:
        raise Skip("there are no parameters and no buffers")
    if not subject.make:
        raise Skip("give a function that makes the layer with device= and dtype=")
    for option, value in (("dtype", torch.float64), ("device", "meta")):
        try:
            layer = subject.make(**{option: value})
        except TypeError as error:
            raise Broken(f"it cannot be made with {option}= ({_short(error)}): take device=None, dtype=None in the constructor") from None
        state = subject.state(layer)
        if option == "dtype":
            wrong = [name for name, one in layer.named_parameters() if one.is_floating_point() and one.dtype != value]
        else:
            wrong = [name for name, one in state.items() if not one.is_meta]
        if wrong:
            raise Broken(f"made with {option}={value}, {names(wrong)} has another one: pass {option}={option} where it is created")


def reset_parameters(subject: Subject) -> str:
    layer = subject.copy()
    owners = [one for one in layer.modules() if any(True for _ in one.parameters(recurse=False))]
    if not owners:
        raise Skip("there are no parameters")
    missing = {type(one).__name__ for one in owners if not callable(getattr(one, "reset_parameters", None))}
    if missing:
        raise Broken(f"{', '.join(sorted(missing))} has no reset_parameters(): it gives values after to_empty(), and again later")
    identities = [id(one) for one in layer.parameters()]
    torch.manual_seed(3)
    for one in owners:
        one.reset_parameters()
    if [id(one) for one in layer.parameters()] != identities:
        raise Broken("reset_parameters() makes new Parameters, which no optimizer knows: fill those that are there")
    if not subject.make:
        return ""
    torch.manual_seed(3)
    fresh = dict(subject.make().named_parameters())
    other = [name for name, one in layer.named_parameters() if not same_bits(one.detach().cpu(), fresh[name].detach().cpu())]
    if other:
        raise Broken(f"under one seed, reset_parameters() and the constructor give {names(other)} other values")
    return ""
