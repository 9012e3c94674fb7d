"""Checkpoints of a training run that outlive the power cord."""

import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from . import random_state
from .atomic import SUFFIX, sync_folder
from .codec import Decoder, Encoder
from .container import DamagedFile, damaged
from .objects import read_structure, taking, told_by, write_structure

_NAME = re.compile(r"step-(\d+)\.safetensors")
_CPU = torch.device("cpu")


def _state(value: Any) -> Any:
    """Plain data stands for itself."""
    if isinstance(value, torch.Generator):
        return value.get_state()
    return value.state_dict() if callable(getattr(value, "state_dict", None)) else value


def _has_state(value: Any) -> bool:
    return isinstance(value, torch.Generator) or callable(getattr(value, "load_state_dict", None))


class Checkpoint:
    """The last few states of a training run, in a folder, from which it goes on as if it had never stopped.

    A state is one file, written beside the others and renamed when it is on the disk; older ones are removed after that. A
    process that is killed at any moment, or a machine that loses power, leaves the newest whole file. No pickle.

    Args:
        folder: one for each run; made if it is not there. One process may write to it.
        keep: how many states stay.

    Attributes:
        values: plain data of the state that was resumed from.
        path: its file; None before.

    Raises:
        ValueError: keep is not at least 1.

    Example:
        >>> checkpoint = pylayers.io.Checkpoint("run")
        >>> for step in range(checkpoint.resume(model=model, optimizer=optimizer), steps):
        ...     train(model, optimizer)
        ...     checkpoint.save(step + 1, model=model, optimizer=optimizer, best=best)
    """

    def __init__(self, folder: str | os.PathLike, keep: int = 3) -> None:
        if type(keep) is not int or keep < 1:
            raise ValueError(f"Checkpoint: keep must be an int of at least 1, got {keep!r}")
        self.folder = Path(folder)
        self.keep = keep
        self.values: dict[str, Any] = {}
        self.path: Path | None = None
        self._damaged: set[Path] = set()
        self._warned = False
        if not self.folder.is_dir():
            self.folder.mkdir(parents=True)
            sync_folder(str(self.folder.parent))

    def __repr__(self) -> str:
        return f"Checkpoint({str(self.folder)!r}, keep={self.keep})"

    def steps(self) -> list[int]:
        """Of the files that are there, ascending."""
        return sorted(step for step, _ in self._files())

    def _files(self) -> list[tuple[int, Path]]:
        """The newest first."""
        found = ((_NAME.fullmatch(path.name), path) for path in self.folder.iterdir())
        return sorted(((int(match[1]), path) for match, path in found if match), reverse=True)

    def save(self, step: int, /, **objects: Any) -> Path:
        """Writes one state, and then removes those that are no longer kept.

        The states of the random generators go with it: torch's on the CPU and, if CUDA is in use, on every GPU, Python's, and
        numpy's global one if numpy is imported.

        Args:
            step: how many steps are done.
            objects: model, optimizer, scheduler, scaler, anything that has state_dict, generators; and plain data: numbers,
                strings, tensors and containers of them.

        Returns: the file.

        Raises:
            TypeError: something in a state is of a type that the file has no form for.
        """
        if type(step) is not int or step < 0:
            raise ValueError(f"Checkpoint.save: step must be an int of at least 0, got {step!r}")
        path = self.folder / f"step-{step:012d}.safetensors"
        with told_by("Checkpoint.save"):
            encoder = Encoder()
            content = {
                "step": step,
                "objects": {name: [_has_state(value), encoder.encode(_state(value), name)] for name, value in objects.items()},
                "random": encoder.encode(random_state.capture(), "random states"),
            }
            write_structure(path, "checkpoint", content, encoder)
        self._remove_old(step, path)
        return path

    def _remove_old(self, step: int, path: Path) -> None:
        self._damaged.discard(path)
        later = [one for number, one in self._files() if number > step and one not in self._damaged]
        if later and not self._warned:
            self._warned = True
            warnings.warn(f"{self.folder} has later checkpoints than step {step}, which stay: {later[0].name}", stacklevel=3)
        kept = [one for number, one in self._files() if number <= step and one not in self._damaged][: self.keep]
        for _, one in self._files():
            if one not in kept and one not in later:
                one.unlink(missing_ok=True)
        for one in self.folder.glob(f".step-*{SUFFIX}"):  # of a process that was killed
            one.unlink(missing_ok=True)

    def resume(self, *, random_states: bool = True, **objects: Any) -> int:
        """Puts the newest whole state back into the objects, under the names that they were saved by.

        A damaged file is skipped with a warning that says so. The random generators come last, so that what the objects draw
        while they load is forgotten.

        Args:
            random_states: whether the random generators are set as they were.
            objects: those that were saved, or some of them.

        Returns: the step of that state, 0 if the folder has none.

        Raises:
            DamagedFile: there are files and none is whole.
            ValueError: an object was not saved, or the model's parameters are not those in the file.
        """
        for name, value in objects.items():
            if not _has_state(value):
                kind = type(value).__name__
                raise TypeError(f"Checkpoint.resume: {name} must have load_state_dict, got {kind}; read plain data in values")
        reasons = []
        for step, path in self._files():
            try:
                with told_by("Checkpoint.resume", path):
                    states, values, random = self._read(path, step)
            except DamagedFile as error:
                reasons.append(str(error))
                self._damaged.add(path)
                warnings.warn(f"{error}; the one before it is tried", stacklevel=2)
                continue
            with told_by("Checkpoint.resume", path):
                self._put_back(states, objects)
                if random_states:
                    with taking("the random generators do not take the states in the file"):
                        random_state.restore(random)
            self.values, self.path = values, path
            return step
        if reasons:
            found = f"none of the {len(reasons)} checkpoints in {self.folder} is whole"
            raise DamagedFile(f"Checkpoint.resume: {found}: {reasons[0]}")
        return 0

    @staticmethod
    def _read(path: Path, step: int) -> tuple[dict, dict, dict]:
        structure, tensors = read_structure(path, "checkpoint", {"step", "objects", "random"}, _CPU)
        decoder = Decoder(tensors)
        objects = structure["objects"]
        if not isinstance(objects, dict) or not all(isinstance(one, list) and len(one) == 2 for one in objects.values()):
            damaged("its objects are none")
        if structure["step"] != step:
            damaged(f"it is of step {structure['step']}")
        decoded = {name: decoder.decode(state) for name, (_, state) in objects.items()}
        states = {name: decoded[name] for name, (has_state, _) in objects.items() if has_state}
        values = {name: decoded[name] for name, (has_state, _) in objects.items() if not has_state}
        random = decoder.decode(structure["random"])
        return states, values, random if isinstance(random, dict) else damaged("its random states are none")

    @staticmethod
    def _put_back(states: dict[str, Any], objects: dict[str, Any]) -> None:
        for name, value in objects.items():
            if name not in states:
                raise ValueError(f"{name} was not saved; there are {', '.join(states) or 'none'}")
            if isinstance(value, nn.Module):
                if not isinstance(states[name], dict):
                    raise ValueError(f"{name} is a Module, but was none when it was saved")
                for difference in _differences(value.state_dict(), states[name]):
                    raise ValueError(f"{name} is not the one that was saved: {difference}")
        for name, value in objects.items():
            with taking(f"{name} does not take the state in the file"):
                _load(value, states[name])


def _load(value: Any, state: Any) -> None:
    if isinstance(value, torch.Generator):
        value.set_state(state)
        return
    value.load_state_dict(state)
    if isinstance(value, torch.optim.Optimizer):
        _exact(value, state)


def _differences(ours: dict[str, Any], theirs: dict[str, Any]) -> Iterator[str]:
    """Between the state_dicts of a model, in words. load_state_dict casts dtypes silently and stops half-way at shapes."""
    yield from (f"it has {name!r}, which the file does not" for name in ours if name not in theirs)
    yield from (f"the file has {name!r}, which it does not" for name in theirs if name not in ours)
    for name, one in ours.items():
        other = theirs[name]
        if isinstance(one, Tensor) and isinstance(other, Tensor) and not is_lazy(one):
            if is_lazy(other):
                yield f"{name!r} was not initialised when it was saved"
            elif (one.shape, one.dtype) != (other.shape, other.dtype):
                yield f"{name!r} is {list(one.shape)} {one.dtype}, in the file {list(other.shape)} {other.dtype}"


def _exact(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """load_state_dict casts an optimizer's tensors to the dtype of their parameter; a state has the dtype that it had."""
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    for parameter, number in zip(parameters, numbers, strict=True):
        for key, saved in state["state"].get(number, {}).items():
            ours = optimizer.state[parameter].get(key)
            if isinstance(saved, Tensor) and isinstance(ours, Tensor) and ours.dtype != saved.dtype:
                optimizer.state[parameter][key] = saved.to(ours.device)
