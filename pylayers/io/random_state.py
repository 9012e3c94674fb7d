"""The states of the random generators that a training run draws from."""

import contextlib
import random
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import torch


def capture() -> dict[str, Any]:
    """Of torch on the CPU and, where CUDA is in use, on every GPU; of Python; and of numpy where it is imported."""
    states: dict[str, Any] = {"torch": torch.get_rng_state(), "python": random.getstate()}
    if torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state_all()
    if "numpy" in sys.modules:
        states["numpy"] = sys.modules["numpy"].random.get_state()
    return states


def restore(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["torch"].cpu())
    random.setstate(states["python"])
    if "numpy" in states:
        import numpy

        numpy.random.set_state(states["numpy"])
    if "cuda" in states:
        _restore_cuda([state.cpu() for state in states["cuda"]])


def _restore_cuda(states: list[torch.Tensor]) -> None:
    count = torch.cuda.device_count()
    if count < len(states):
        warnings.warn(f"random states of {len(states)} GPUs were saved and {count} are here: numbers will differ", stacklevel=4)
    for index, state in enumerate(states[:count]):
        torch.cuda.set_rng_state(state, index)


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Gives back what is drawn inside."""
    states = capture()
    try:
        yield
    finally:
        restore(states)
