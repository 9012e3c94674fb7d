"""load_matching: the part of another net's weights that fits."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

Rename = Mapping[str | re.Pattern, str] | Callable[[str], str | None]


@dataclass
class Matching:
    """What `load_matching` did.

    Attributes:
        taken: names in the net that have new values, to the names that these came under.
        mismatched: names in the net that another shape or kind of number came for, to (that of the net, what came).
        missing: names in the net that nothing came for.
        unused: names that came and are not in the net.
    """

    taken: dict[str, str] = field(default_factory=dict)
    mismatched: dict[str, tuple[str, str]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        lines = [f"taken: {len(self.taken)} of {len(self.taken) + len(self.mismatched) + len(self.missing)}"]
        lines += [f"    {name}" + (f" (from {source})" if source != name else "") for name, source in self.taken.items()]
        for title, rows in (
            ("does not fit", [f"{name}: the net has {ours}, got {theirs}" for name, (ours, theirs) in self.mismatched.items()]),
            ("missing", self.missing),
            ("unused", self.unused),
        ):
            lines += [f"{title}: {len(rows)}", *(f"    {row}" for row in rows)] if rows else []
        return "\n".join(lines)


def _prefix(name: str, old: str, new: str) -> str | None:
    if name == old or name.startswith(old if old.endswith(".") or not old else f"{old}."):
        return (new + name[len(old) :]).removeprefix("." if not new else "")
    return None


def _renamed(name: str, rename: Rename | None) -> str | None:
    if rename is None:
        return name
    if callable(rename):
        return rename(name)
    for old, new in rename.items():  # the first that fits
        if isinstance(old, re.Pattern):
            found, count = old.subn(new, name)
            if count:
                return found
        elif (found := _prefix(name, old, new)) is not None:
            return found
    return name


def _kind(tensor: Tensor) -> tuple[bool, bool, bool]:
    return tensor.is_complex(), tensor.is_floating_point(), tensor.dtype == torch.bool


def _described(tensor: Tensor, with_kind: bool) -> str:
    return f"{list(tensor.shape)}" + (f" of dtype {tensor.dtype}" if with_kind else "")


def _sources(state_dict: Mapping[str, Tensor], rename: Rename | None) -> dict[str, str]:
    """Names after the renames to names before; those that are renamed to None stay away."""
    sources: dict[str, str] = {}
    for name, value in state_dict.items():
        new = _renamed(name, rename)
        if new is None or not isinstance(value, Tensor) or is_lazy(value):
            continue
        if new in sources:
            raise ValueError(f"load_matching: {sources[new]!r} and {name!r} are both renamed to {new!r}")
        sources[new] = name
    return sources


def load_matching(net: nn.Module, state_dict: Mapping[str, Tensor] | nn.Module, rename: Rename | None = None) -> Matching:
    """Copies into the net what fits by name and shape, and reports the rest: the first layers of another net, for instance.

    Values are cast to the net's dtype and device, among floating dtypes; a floating tensor never lands in an integer one. The
    net's parameters stay the same objects. torch's `load_state_dict(strict=False)` raises where shapes differ.

    Args:
        net: takes the values.
        state_dict: names to tensors, or the other net.
        rename: new names for those in state_dict: a dict from prefixes (whole parts of a name, "encoder" for
            "encoder.0.weight"; "" for every name) or compiled regular expressions to replacements, of which the first that
            fits is used; or a function, whose None leaves a tensor out.

    Raises:
        ValueError: two tensors get the same name, or the net has parameters that are not initialised.

    Example:
        >>> pylayers.io.load_matching(net, torch.load("pretrained.pt"), rename={"model.encoder": "encoder"})
    """
    if not isinstance(net, nn.Module):
        raise TypeError(f"load_matching: net must be a Module, got {type(net).__name__}")
    if isinstance(state_dict, nn.Module):
        state_dict = state_dict.state_dict()
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"load_matching: state_dict must be a dict of tensors or a Module, got {type(state_dict).__name__}")
    targets = {name: one for name, one in net.state_dict(keep_vars=True).items() if isinstance(one, Tensor)}
    lazy = [name for name, one in targets.items() if is_lazy(one)]
    if lazy:
        raise ValueError(f"load_matching: {', '.join(lazy[:3])} of the net are not initialised: run it on data first")
    sources = _sources(state_dict, rename)
    report = Matching()
    for name, target in targets.items():
        if name in sources:
            _take(name, target, sources[name], state_dict[sources[name]], report)
    taken = {id(targets[name]) for name in report.taken}
    # A tie is not missing: its tensor came under the other name.
    report.missing = [name for name, one in targets.items() if name not in sources and id(one) not in taken]
    used = {*report.taken.values(), *(sources[name] for name in report.mismatched)}
    report.unused = [name for name in state_dict if name not in used]
    return report


def _take(name: str, target: Tensor, source: str, value: Tensor, report: Matching) -> None:
    kinds_differ = _kind(target) != _kind(value)
    if target.shape != value.shape or kinds_differ:
        report.mismatched[name] = (_described(target, kinds_differ), _described(value, kinds_differ))
        return
    with torch.no_grad():
        target.copy_(value)
    report.taken[name] = source
