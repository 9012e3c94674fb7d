"""Nothing is written that belongs to somebody else."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from .report import Broken
from .subject import Subject, floating, names, same_bits, tensors_in


def _changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> list[str]:
    return [name for name, one in after.items() if name in before and not same_bits(before[name], one)]


def inputs_unchanged(subject: Subject) -> None:
    layer, given = subject.copy(), subject.inputs_as()
    subject.values(layer, given)
    changed = [f"input {i}" for i, pair in enumerate(zip(subject.inputs, given, strict=True)) if _differ(*pair)]
    if changed:
        raise Broken(f"forward writes to {', '.join(changed)}: compute into a new tensor (x * 2, not x.mul_(2))")


def _differ(before: object, after: object) -> bool:
    return isinstance(before, Tensor) and not same_bits(before, after)


def parameters_unchanged(subject: Subject) -> None:
    layer = subject.copy()
    subject.run(layer, subject.inputs_as())
    changed = _changed(subject.before, dict(layer.named_parameters()))
    if changed:
        raise Broken(f"a call changes the parameter {names(changed)}: leave that to the optimizer")


def _may_update(layer: nn.Module, name: str) -> bool:
    """Running statistics of torch's own kind, in train mode."""
    owner = layer.get_submodule(name.rpartition(".")[0])
    return isinstance(owner, _NormBase) and owner.training


def buffers_unchanged(subject: Subject) -> str:
    layer = subject.copy()
    subject.run(layer, subject.inputs_as())
    changed = _changed(subject.before, dict(layer.named_buffers()))
    meant = [name for name in changed if _may_update(layer, name) or (layer.training and name in subject.updates)]
    wrong = [name for name in changed if name not in meant]
    if wrong:
        mode = "train" if layer.training else "eval"
        advice = f"if training is to update it, say updates={wrong!r}" if layer.training else "leave it alone after eval()"
        raise Broken(f"a call in {mode} mode changes the buffer {names(wrong)}: {advice}")
    if layer.training:
        still = subject.copy()
        still.eval()
        before = {name: one.clone() for name, one in still.named_buffers()}
        subject.values(still, subject.inputs_as())
        if late := _changed(before, dict(still.named_buffers())):
            raise Broken(f"a call in eval mode changes the buffer {names(late)}: leave it alone after eval()")
    return f"training updates {names(meant)}" if meant else ""


def saved_tensors_unchanged(subject: Subject) -> str:
    used: list[tuple[Tensor, Tensor]] = []  # what backward reads, and its values then

    def unpack(tensor: Tensor) -> Tensor:
        used.append((tensor, tensor.detach().clone()))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, unpack):
        subject.run(subject.copy(), subject.inputs_as())
    for tensor, before in used:
        if not same_bits(tensor.detach(), before):
            what = f"a saved tensor of shape {tuple(tensor.shape)}"
            raise Broken(f"backward writes to {what}: a second backward and whoever else holds it see that, write to a new tensor")
    return f"{len(used)} saved" if used else ""


def incoming_gradient_unchanged(subject: Subject) -> None:
    layer = subject.copy()
    given: list[tuple[Tensor, Tensor]] = []

    def lay(gradient: Tensor) -> Tensor:
        given.append((gradient, gradient.clone()))
        return gradient

    subject.run(layer, subject.inputs_as(), lay_gradient=lay)
    if any(not same_bits(*pair) for pair in given):
        raise Broken("backward writes to the gradient that comes in: others still need it, write to a new tensor")


def output_may_be_edited(subject: Subject) -> str:
    """`y /= 2` after the layer. Autograd may refuse; wrong gradients are silent."""
    layer = subject.copy()
    expected = subject.run(layer, subject.inputs_as()).gradients
    halved = _Edited(layer)
    try:
        found = subject.run(halved, subject.inputs_as()).gradients
    except RuntimeError as error:
        if "inplace" in str(error) or "in-place" in str(error):
            return "autograd refuses it with an error"
        raise
    for name, gradient in found.items():
        exact = expected[name.removeprefix("layer.")]
        if gradient is not None and not torch.allclose(2 * gradient, exact, rtol=1e-3, atol=1e-3):
            raise Broken(
                f"after `y /= 2` the gradient of {name.removeprefix('layer.')} is silently wrong: save tensors with "
                "ctx.save_for_backward, or save what an edit of the output cannot reach"
            )
    return ""


class _Edited(nn.Module):
    """A layer whose output is halved in place."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, *inputs):
        return [one.div_(2) if floating(one) else one for one in tensors_in(self.layer(*inputs))]
