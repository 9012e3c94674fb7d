"""One harness for all backends: what every op must pass, as functions that its test file calls."""

import pytest
import torch
from pylayers.check import DTYPES
from pylayers.library import doors
from pylayers.testing import LAYOUTS, check_layer
from pylayers.testing import compiles, derivatives_hold, matches_float64, transforms_match  # noqa: F401
from torch import Tensor

import pylayers

RUNNABLE = [(one.name, device) for one in pylayers.backends().values() for device in one.devices]
every_backend = pytest.mark.parametrize("backend,device", RUNNABLE, ids=["-".join(pair) for pair in RUNNABLE])
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=[str(dtype).removeprefix("torch.") for dtype in DTYPES])


@pytest.fixture(autouse=True)
def nan_filled_outputs():
    """What a kernel leaves unwritten must show."""
    doors.poison_outputs(True)
    yield
    doors.poison_outputs(False)


def seeded(device="cpu", seed: int = 0) -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


def normal(*size: int, dtype=torch.float32, device="cpu", seed: int = 0) -> Tensor:
    return torch.randn(size, device=device, generator=seeded(device, seed + sum(size))).to(dtype)


every_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())


def passes_opcheck(name: str, *arguments) -> None:
    torch.library.opcheck(getattr(torch.ops.pylayers, name).default, arguments)


def state_exchanges(ours: torch.nn.Module, theirs: torch.nn.Module) -> None:
    """Same keys, shapes and values, loadable both ways."""
    mine, other = ours.state_dict(), theirs.state_dict()
    assert mine.keys() == other.keys()
    for key in mine:
        assert torch.equal(mine[key], other[key]), key
    ours.load_state_dict(other, strict=True)
    theirs.load_state_dict(mine, strict=True)


def keeps_the_module_contract(make, *inputs: Tensor) -> None:
    """Every rule of check_layer."""
    check_layer(make, *inputs).raise_if_failed()
