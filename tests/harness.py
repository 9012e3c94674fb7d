"""One harness for all backends: what every op must pass, as functions that its test file calls."""

import pytest
import torch
from pylayers.check import DTYPES, compare_call
from pylayers.library import doors
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


def matches_float64(function, reference, inputs: tuple[Tensor, ...], backend: str, *, long_sums: bool = False) -> None:
    """Output and gradients within bound, nothing written to the inputs, the same bits twice."""
    compared, problem = compare_call(
        function, reference, inputs, backend, seeded(inputs[0].device), long_sums=long_sums
    )
    assert not problem, problem
    for one in compared:
        assert one.passed, f"{one.what}: error {one.error:.3g}, bound {one.bound:.3g}"


# Ways for a [rows, dim] matrix to lie in memory.
LAYOUTS = {
    "strided rows": lambda x: _hold(x, lambda r, d: (torch.empty(r, 2 * d + 3), lambda t: t[:, 1 : d + 1])),
    "misaligned": lambda x: _hold(x, lambda r, d: (torch.empty(r * d + 1), lambda t: t[1:].view(r, d))),
    "transposed": lambda x: _hold(x, lambda r, d: (torch.empty(d, r), lambda t: t.t())),
    "every other column": lambda x: _hold(x, lambda r, d: (torch.empty(r, 2 * d), lambda t: t[:, ::2])),
    "expanded": lambda x: x[:1].expand(x.shape),
}


def _hold(x: Tensor, make) -> Tensor:
    memory, view = make(*x.shape)
    held = view(memory.to(x.device, x.dtype))
    return held.copy_(x)


every_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())


def derivatives_hold(function, inputs: tuple[Tensor, ...]) -> None:
    """First and second derivatives, forward mode and batched too, by finite differences in float64."""
    leaves = tuple(one.detach().double().requires_grad_() for one in inputs)
    torch.autograd.gradcheck(
        function, leaves, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True
    )
    torch.autograd.gradgradcheck(function, leaves, check_batched_grad=True)


def transforms_match(function, reference, inputs: tuple[Tensor, ...]) -> None:
    """torch.func over the op gives what it gives over the definition. The first input is batched."""
    x, *others = (one.detach().double() for one in inputs)
    every = tuple(range(len(inputs)))

    def total(call):
        return lambda *tensors: call(*tensors).square().sum()

    for transform in (
        lambda call: torch.func.grad(total(call), every)(x, *others),
        lambda call: torch.func.vmap(call, in_dims=(0, *(None for _ in others)))(torch.stack([x, 2 * x]), *others),
        lambda call: torch.func.vmap(torch.func.grad(total(call)), in_dims=(0, *(None for _ in others)))(
            torch.stack([x, 2 * x]), *others
        ),
        lambda call: torch.func.jvp(call, (x, *others), (torch.ones_like(x), *others)),
        lambda call: torch.func.hessian(total(call))(x, *others),
    ):
        torch.testing.assert_close(transform(function), transform(reference), rtol=1e-9, atol=1e-9)


def compiles(function, inputs: tuple[Tensor, ...], *, batch: int = 2) -> None:
    """One graph without a break, static and dynamic, with the values and gradients of the eager call."""
    for dynamic in (False, True):
        torch.compiler.reset()
        compiled = torch.compile(function, fullgraph=True, dynamic=dynamic)
        for size in (1, batch) if dynamic else (1,):
            leaves = [one.detach().clone().requires_grad_() for one in inputs]
            leaves[0] = torch.cat([inputs[0]] * size).requires_grad_()
            expected, actual = function(*leaves), compiled(*leaves)
            torch.testing.assert_close(actual, expected)
            grad = torch.ones_like(expected)
            torch.testing.assert_close(
                torch.autograd.grad(actual, leaves, grad), torch.autograd.grad(expected, leaves, grad)
            )


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


def keeps_the_module_contract(make, example: Tensor) -> None:
    """device= and dtype=, meta and to_empty, deepcopy, pickle, reset_parameters, a state_dict that loads."""
    import copy
    import pickle

    module = make()
    expected = module(example)
    for same in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(same(example), expected)
    assert all(type(one) is torch.nn.Parameter for one in module.parameters())
    assert {one.dtype for one in make(dtype=torch.float64).parameters()} <= {torch.float64}
    meta = make(device="meta")
    assert meta(example.to("meta")).shape == expected.shape
    meta.to_empty(device=example.device).load_state_dict(module.state_dict())
    assert torch.equal(meta(example), expected)
    identities = [id(one) for one in module.parameters()]
    torch.manual_seed(3)
    module.reset_parameters()
    torch.manual_seed(3)
    fresh = make()
    assert [id(one) for one in module.parameters()] == identities
    for one, other in zip(module.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(one, other)
