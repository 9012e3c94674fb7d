from pathlib import Path

import pytest
import torch
from pylayers.testing import LAYOUTS, check_layer, compiles, derivatives_hold, matches_float64, transforms_match

import pylayers
from scaled_tanh import ScaledTanh, reference, scaled_tanh

CSRC = Path(__file__).parents[1] / "csrc"
RUNNABLE = [(one.name, device) for one in pylayers.backends().values() for device in one.devices]
every_backend = pytest.mark.parametrize("backend,device", RUNNABLE, ids=["-".join(pair) for pair in RUNNABLE])
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=[str(dtype).removeprefix("torch.") for dtype in DTYPES])
# [rows, dim]: one element, multiples of nothing, more rows than a partial sum takes, a row longer than a block.
SIZES = [(1, 1), (3, 7), (65, 33), (5, 1024), (2, 1501)]


def tensors(rows, dim, **kind):
    generator = torch.Generator().manual_seed(rows + dim)
    return [torch.randn(size, generator=generator).to(**kind) for size in ((rows, dim), (dim,), (dim,))]


@every_backend
@every_dtype
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_scaled_tanh(backend, device, dtype, size):
    matches_float64(scaled_tanh, reference.scaled_tanh, tensors(*size, dtype=dtype, device=device), backend)


@every_backend
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_scaled_tanh_strides(backend, device, layout):
    x, *others = tensors(5, 24, device=device)
    matches_float64(scaled_tanh, reference.scaled_tanh, (layout(x), *others), backend)


@every_backend
@pytest.mark.parametrize("asked", range(3))
def test_scaled_tanh_one_gradient(backend, device, asked):
    given, exact = tensors(40, 12, device=device), [one.double() for one in tensors(40, 12, device=device)]
    given[asked].requires_grad_()
    exact[asked].requires_grad_()
    with pylayers.backend(backend):
        scaled_tanh(*given).square().sum().backward()
    reference.scaled_tanh(*exact).square().sum().backward()
    torch.testing.assert_close(given[asked].grad.double(), exact[asked].grad, rtol=1e-4, atol=1e-4)


def test_scaled_tanh_derivatives():
    derivatives_hold(scaled_tanh, tensors(3, 5))
    transforms_match(scaled_tanh, reference.scaled_tanh, tensors(3, 4))


def test_scaled_tanh_compiles():
    compiles(lambda *given: scaled_tanh(*given) * 2, tensors(4, 6))


def test_scaled_tanh_opcheck():
    torch.library.opcheck(torch.ops.scaled_tanh.scaled_tanh.default, [one.requires_grad_() for one in tensors(4, 6)])


def test_ScaledTanh():
    demand = ["second derivatives", "forward-mode derivatives"]
    report = check_layer(lambda **kind: ScaledTanh(24, **kind), tensors(5, 24)[0], reference=reference.scaled_tanh, demand=demand)
    print(report)
    report.raise_if_failed()


@pytest.mark.parametrize(
    "arguments,error,sentence",
    [
        (([1.0], torch.ones(1), torch.ones(1)), TypeError, "scaled_tanh: input must be a Tensor, got list"),
        ((torch.ones(2, 3), torch.ones(4), torch.ones(3)), ValueError, "weight must have shape [3] (the last dimension of input), got [4]"),
        ((torch.ones(2, 3), torch.ones(3), torch.ones(3).double()), TypeError, "bias must have the dtype of input (Float), got Double"),
        ((torch.ones(2, 3).int(), torch.ones(3), torch.ones(3)), TypeError, "input must be float64, float32, float16 or bfloat16, got Int"),
    ],
)
def test_scaled_tanh_bad_input(arguments, error, sentence):
    with pytest.raises(error) as raised:
        scaled_tanh(*arguments)
    assert sentence in str(raised.value)


# The CUDA and Triton kernels as they are compiled for a GPU, run on this CPU.


@pytest.fixture(scope="module", params=["cuda", "triton"])
def emulated(request):
    if why := pylayers.emulator.missing(request.param):
        pytest.skip(why)
    with pylayers.emulator.on("h200", order=(0, 5), backends=[request.param], csrc=CSRC):
        yield request.param


@every_dtype
@pytest.mark.parametrize("size", [(3, 7), (70, 40), (2, 1501)], ids=str)
def test_scaled_tanh_emulated(emulated, dtype, size):
    matches_float64(scaled_tanh, reference.scaled_tanh, tensors(*size, dtype=dtype), emulated)


@pytest.mark.parametrize("asked", range(3))
def test_scaled_tanh_one_gradient_emulated(emulated, asked):
    test_scaled_tanh_one_gradient(emulated, "cpu", asked)
