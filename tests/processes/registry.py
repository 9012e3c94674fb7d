"""Checks by name, and on how many ranks each is to run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from processes import sharded_ops

Check = Callable[[DeviceMesh, Path], None]
CHECKS: dict[str, Check] = {}
TWO: list[str] = []
FOUR: list[str] = []


def check(*ranks: list[str]) -> Callable[[Check], Check]:
    def add(function: Check) -> Check:
        CHECKS[function.__name__] = function
        for names in ranks:
            names.append(function.__name__)
        return function

    return add


def equal(actual: Tensor, expected: Tensor, what: str = "", **close: float) -> None:
    torch.testing.assert_close(sharded_ops.whole(actual), expected, msg=lambda told: f"{what}: {told}", **(close or sharded_ops.CLOSE))


def raises(kind: type[Exception], text: str, call: Callable[[], object]) -> None:
    try:
        call()
    except kind as error:
        if text not in str(error):
            raise AssertionError(f"says {error}") from None
    else:
        raise AssertionError(f"no {kind.__name__}")
