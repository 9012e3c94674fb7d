import harness
import pytest
import torch
from harness import every_backend, every_dtype, every_layout, nan_filled_outputs, normal  # noqa: F401
from pylayers import functional, reference

import pylayers

# [rows, dim]: around the widths at which kernels change their path, multiples of nothing, few and many rows.
SIZES = [(1, 1), (3, 7), (2, 8), (9, 100), (65, 33), (3, 1000), (5, 1024), (2, 3001), (1, 8192), (2, 17001)]


def over_last(call, eps=None, offset=0.0):
    return lambda x, weight=None: call(x, x.shape[-1:], weight, eps, offset=offset)


@every_backend
@every_dtype
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_rms_norm(backend, device, dtype, size):
    x, weight = normal(*size, dtype=dtype, device=device), normal(size[1], dtype=dtype, device=device)
    harness.matches_float64(over_last(functional.rms_norm), over_last(reference.rms_norm), (x, weight), backend)


@every_backend
def test_rms_norm_many_rows(backend, device):
    """Several rows for each partial sum of a GPU, more than a block works on at once."""
    x, weight = normal(600, 1000, device=device), normal(1000, device=device)
    harness.matches_float64(over_last(functional.rms_norm), over_last(reference.rms_norm), (x, weight), backend)


@every_backend
@every_dtype
@pytest.mark.parametrize("weighted", [True, False])
def test_rms_norm_offset_and_eps(backend, device, dtype, weighted):
    tensors = (normal(6, 40, dtype=dtype, device=device), normal(40, dtype=dtype, device=device))[: 1 + weighted]
    ours, exact = (over_last(call, eps=0.5, offset=0.25) for call in (functional.rms_norm, reference.rms_norm))
    harness.matches_float64(ours, exact, tensors, backend)


@every_backend
@every_dtype
@every_layout
def test_rms_norm_strides(backend, device, dtype, layout):
    x, weight = layout(normal(5, 24, dtype=dtype, device=device)), normal(48, dtype=dtype, device=device)[::2]
    harness.matches_float64(over_last(functional.rms_norm), over_last(reference.rms_norm), (x, weight), backend)


@every_backend
def test_rms_norm_several_dimensions(backend, device):
    x, weight = normal(2, 3, 4, 5, device=device), normal(4, 5, device=device)
    for view in (x, x.transpose(0, 1), x.transpose(2, 3).contiguous().transpose(2, 3)):
        harness.matches_float64(
            lambda a, w: functional.rms_norm(a, (4, 5), w), lambda a, w: reference.rms_norm(a, (4, 5), w), (view, weight), backend
        )


@every_backend
@pytest.mark.parametrize("shape", [(0, 8), (3, 0, 8), (4, 0)], ids=str)
def test_rms_norm_empty(backend, device, shape):
    x = torch.empty(shape, device=device, requires_grad=True)
    weight = torch.ones(shape[-1], device=device, requires_grad=True)
    with pylayers.backend(backend):
        y = functional.rms_norm(x, shape[-1:], weight)
        y.sum().backward()
    assert y.shape == x.grad.shape == torch.Size(shape)
    assert torch.equal(weight.grad, torch.zeros_like(weight))


@every_backend
@pytest.mark.parametrize("wanted", ["input", "weight"])
def test_rms_norm_only_the_gradient_asked_for(backend, device, wanted):
    x, weight = normal(40, 12, device=device), normal(12, device=device)
    asked = {"input": x, "weight": weight}[wanted].requires_grad_()
    with pylayers.backend(backend):
        functional.rms_norm(x, (12,), weight).square().sum().backward()
    exact = [one.detach().double().requires_grad_() for one in (x, weight)]
    reference.rms_norm(exact[0], (12,), exact[1]).square().sum().backward()
    torch.testing.assert_close(asked.grad.double(), exact[wanted == "weight"].grad, rtol=1e-5, atol=1e-5)
    assert (weight if wanted == "input" else x).grad is None


def test_rms_norm_saves_nothing_without_grad():
    x, weight = normal(4, 8), normal(8)
    with torch.no_grad():
        assert functional.rms_norm(x.requires_grad_(), (8,), weight).grad_fn is None
    assert not functional.rms_norm(x.detach(), (8,), weight).requires_grad


def test_rms_norm_derivatives():
    harness.derivatives_hold(lambda x, w: functional.rms_norm(x, (5,), w, 1e-3, offset=1.0), (normal(3, 5), normal(5)))
    harness.derivatives_hold(lambda x: functional.rms_norm(x, (2, 3), None, 1e-3), (normal(2, 2, 3),))


def test_rms_norm_transforms():
    harness.transforms_match(over_last(functional.rms_norm), over_last(reference.rms_norm), (normal(3, 4), normal(4)))


def test_rms_norm_compiles():
    harness.compiles(lambda x, w: functional.rms_norm(x, (6,), w) * 2, (normal(4, 6), normal(6)))


@pytest.mark.parametrize("grad", [False, True])
def test_rms_norm_opcheck(grad):
    x, weight = normal(3, 8, 6).requires_grad_(grad), normal(6).requires_grad_(grad)
    harness.passes_opcheck("rms_norm", x, (6,), weight, 1e-5, 1.0)
    harness.passes_opcheck("rms_norm", x, (8, 6), None, None, 0.0)
    harness.passes_opcheck("rms_norm_forward", x.detach(), weight.detach(), 1, 1e-5, 0.0, True)
    harness.passes_opcheck("rms_norm_backward", x, x, weight, torch.ones(3, 8), 1, 1e-5, 0.0, [True, True])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_rms_norm_autocast(dtype):
    x, ours, theirs = normal(3, 8, dtype=dtype), pylayers.RMSNorm(8), torch.nn.RMSNorm(8)
    with torch.autocast("cpu", dtype):
        assert ours(x).dtype == theirs(x).dtype == dtype
        torch.testing.assert_close(ours(x), theirs(x))


def test_rms_norm_numbers_of_torch():
    x = normal(7, 16)
    for eps in (None, 1e-2):
        torch.testing.assert_close(pylayers.RMSNorm(16, eps)(x), torch.nn.RMSNorm(16, eps)(x))
    small = normal(4, 64, dtype=torch.bfloat16) * 1e-3  # here eps decides
    torch.testing.assert_close(pylayers.RMSNorm(64, dtype=small.dtype)(small), torch.nn.RMSNorm(64, dtype=small.dtype)(small))


def test_rms_norm_module():
    for arguments in ((16,), ((4, 16), 1e-3), (16, None, False)):
        harness.state_exchanges(pylayers.RMSNorm(*arguments), torch.nn.RMSNorm(*arguments))
        assert pylayers.RMSNorm(*arguments).extra_repr() == torch.nn.RMSNorm(*arguments).extra_repr()
    harness.keeps_the_module_contract(lambda **kind: pylayers.RMSNorm(16, **kind), normal(3, 16))
    gemma = pylayers.RMSNorm(16, offset=1.0)
    assert torch.equal(gemma.weight, torch.zeros(16)) and "offset=1.0" in repr(gemma)
    assert torch.equal(gemma(normal(3, 16)), pylayers.RMSNorm(16)(normal(3, 16)))


@pytest.mark.parametrize(
    "arguments,error,sentence",
    [
        (([1.0], (1,)), TypeError, "rms_norm: input must be a Tensor, got list"),
        ((torch.ones(2, 3), (4,)), ValueError, "input must end in the dimensions normalized_shape ([4]), got shape [2, 3]"),
        ((torch.ones(2, 3), ()), ValueError, "normalized_shape must name at least one dimension"),
        ((torch.tensor(1.0), (1,)), ValueError, "got shape []"),
        ((torch.ones(2, 3), (3,), torch.ones(4)), ValueError, "weight must have shape [3] (normalized_shape), got [4]"),
        ((torch.ones(2, 3), (3,), torch.ones(3).double()), TypeError, "weight must have the dtype of input (Float), got Double"),
        ((torch.ones(2, 3).int(), (3,)), TypeError, "input must be float64, float32, float16 or bfloat16, got Int"),
        ((torch.ones(2, 3).cfloat(), (3,)), TypeError, "got ComplexFloat"),
        ((torch.ones(2, 3), (3,), torch.ones(3, device="meta")), RuntimeError, "weight must be on the device of input (cpu), got meta"),
        ((torch.ones(2, 3), (3,), None, "small"), TypeError, "rms_norm: the arguments must be"),
    ],
)
def test_rms_norm_bad_input(arguments, error, sentence):
    with pytest.raises(error) as raised:
        functional.rms_norm(*arguments)
    assert sentence in str(raised.value) and "\n" not in str(raised.value)
