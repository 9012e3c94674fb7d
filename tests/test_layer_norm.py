import harness
import pytest
import torch
from harness import every_backend, every_dtype, every_layout, nan_filled_outputs, normal  # noqa: F401
from pylayers import functional, reference

import pylayers

# [rows, dim]: around the widths at which kernels change their path, multiples of nothing, few and many rows.
SIZES = [(1, 1), (3, 7), (2, 8), (9, 100), (65, 33), (3, 1000), (5, 1024), (2, 3001), (1, 8192), (2, 17001)]


def over_last(call, eps=1e-5):
    return lambda x, weight=None, bias=None: call(x, x.shape[-1:], weight, bias, eps)


def tensors(rows, dim, **kind):
    return normal(rows, dim, **kind), normal(dim, **kind), normal(dim, seed=1, **kind)


@every_backend
@every_dtype
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_layer_norm(backend, device, dtype, size):
    inputs = tensors(*size, dtype=dtype, device=device)
    harness.matches_float64(over_last(functional.layer_norm), over_last(reference.layer_norm), inputs, backend)


@every_backend
def test_layer_norm_many_rows(backend, device):
    """Several rows for each partial sum of a GPU, more than a block works on at once."""
    inputs = tensors(600, 1000, device=device)
    harness.matches_float64(over_last(functional.layer_norm), over_last(reference.layer_norm), inputs, backend)


@every_backend
@every_dtype
@pytest.mark.parametrize("given", [1, 2, 3])
def test_layer_norm_eps_and_parameters(backend, device, dtype, given):
    inputs = tensors(6, 40, dtype=dtype, device=device)[:given]
    ours, exact = (over_last(call, eps=0.5) for call in (functional.layer_norm, reference.layer_norm))
    harness.matches_float64(ours, exact, inputs, backend)


@every_backend
@pytest.mark.parametrize("dim", [40, 17001])
def test_layer_norm_bias_without_weight(backend, device, dim):
    x, bias = normal(5, dim, device=device), normal(dim, device=device)
    ours, exact = (lambda a, b, call=call: call(a, (dim,), None, b) for call in (functional.layer_norm, reference.layer_norm))
    harness.matches_float64(ours, exact, (x, bias), backend)


@every_backend
@pytest.mark.parametrize("dim", [7, 33, 1000, 4099, 17001, 40000])
def test_layer_norm_far_from_zero(backend, device, dim):
    """The mean is large beside the deviation from it: the variance is no difference of large numbers."""
    x = normal(3, dim, device=device) + 1000
    exact = torch.nn.functional.layer_norm(x.double(), (dim,))
    with pylayers.backend(backend):
        y = functional.layer_norm(x, (dim,))
    assert (y - exact).abs().max() < 2e-3


@every_backend
@every_dtype
@every_layout
def test_layer_norm_strides(backend, device, dtype, layout):
    x, (weight, bias) = layout(normal(5, 24, dtype=dtype, device=device)), normal(48, 2, dtype=dtype, device=device)[::2].unbind(1)
    harness.matches_float64(over_last(functional.layer_norm), over_last(reference.layer_norm), (x, weight, bias), backend)


@every_backend
def test_layer_norm_several_dimensions(backend, device):
    x, weight, bias = normal(2, 3, 4, 5, device=device), normal(4, 5, device=device), normal(4, 5, device=device, seed=1)
    ours, exact = (lambda a, w, b, call=call: call(a, (4, 5), w, b) for call in (functional.layer_norm, reference.layer_norm))
    for view in (x, x.transpose(0, 1), x.transpose(2, 3).contiguous().transpose(2, 3)):
        harness.matches_float64(ours, exact, (view, weight, bias), backend)


@every_backend
@pytest.mark.parametrize("shape", [(0, 8), (3, 0, 8), (4, 0)], ids=str)
def test_layer_norm_empty(backend, device, shape):
    x = torch.empty(shape, device=device, requires_grad=True)
    weight, bias = (torch.ones(shape[-1], device=device, requires_grad=True) for _ in range(2))
    with pylayers.backend(backend):
        y = functional.layer_norm(x, shape[-1:], weight, bias)
        y.sum().backward()
    assert y.shape == x.grad.shape == torch.Size(shape)
    assert torch.equal(weight.grad, torch.zeros_like(weight)) and torch.equal(bias.grad, torch.zeros_like(bias))


@every_backend
@pytest.mark.parametrize("dim", [12, 17000])
@pytest.mark.parametrize("wanted", range(3), ids=["input", "weight", "bias"])
def test_layer_norm_only_the_gradient_asked_for(backend, device, wanted, dim):
    inputs = tensors(7, dim, device=device)
    inputs[wanted].requires_grad_()
    with pylayers.backend(backend):
        over_last(functional.layer_norm)(*inputs).square().sum().backward()
    exact = [one.detach().double().requires_grad_() for one in inputs]
    over_last(reference.layer_norm)(*exact).square().sum().backward()
    torch.testing.assert_close(inputs[wanted].grad.double(), exact[wanted].grad, rtol=1e-5, atol=1e-4)
    assert [one.grad is not None for one in inputs] == [i == wanted for i in range(3)]


def test_layer_norm_saves_nothing_without_grad():
    x, weight, bias = tensors(4, 8)
    with torch.no_grad():
        assert functional.layer_norm(x.requires_grad_(), (8,), weight, bias).grad_fn is None
    assert not functional.layer_norm(x.detach(), (8,), weight, bias).requires_grad


def test_layer_norm_derivatives():
    harness.derivatives_hold(over_last(functional.layer_norm, 1e-3), tensors(3, 5))
    harness.derivatives_hold(lambda x: functional.layer_norm(x, (2, 3), None, None, 1e-3), (normal(2, 2, 3),))


def test_layer_norm_transforms():
    harness.transforms_match(over_last(functional.layer_norm), over_last(reference.layer_norm), tensors(3, 4))


def test_layer_norm_compiles():
    harness.compiles(lambda x, w, b: functional.layer_norm(x, (6,), w, b) * 2, tensors(4, 6))


@pytest.mark.parametrize("grad", [False, True])
def test_layer_norm_opcheck(grad):
    x, weight, bias = (one.requires_grad_(grad) for one in (normal(3, 8, 6), normal(6), normal(6, seed=1)))
    harness.passes_opcheck("layer_norm", x, (6,), weight, bias, 1e-5)
    harness.passes_opcheck("layer_norm", x, (8, 6), None, None, 1e-5)
    harness.passes_opcheck("layer_norm_forward", x.detach(), weight.detach(), None, 1, 1e-5, True)
    statistics = torch.ones(3, 8), torch.ones(3, 8)
    harness.passes_opcheck("layer_norm_backward", x, x, weight, *statistics, 1, 1e-5, [True, True, True])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_layer_norm_autocast(dtype):
    ours, theirs = pylayers.LayerNorm(8), torch.nn.LayerNorm(8)
    for x in (normal(3, 8, dtype=dtype), normal(3, 8)):
        with torch.autocast("cpu", dtype):
            assert ours(x).dtype == theirs(x).dtype == x.dtype
            torch.testing.assert_close(ours(x), theirs(x))


def test_layer_norm_module():
    for arguments in ((16,), ((4, 16), 1e-3), (16, 1e-5, False), (16, 1e-5, True, False)):
        ours, theirs = pylayers.LayerNorm(*arguments), torch.nn.LayerNorm(*arguments)
        harness.state_exchanges(ours, theirs)
        assert ours.extra_repr() == theirs.extra_repr()
        x = normal(7, 4, 16)
        torch.testing.assert_close(ours(x), theirs(x))
    harness.keeps_the_module_contract(lambda **kind: pylayers.LayerNorm(16, **kind), normal(3, 16))


@pytest.mark.parametrize(
    "arguments,error,sentence",
    [
        (([1.0], (1,)), TypeError, "layer_norm: input must be a Tensor, got list"),
        ((torch.ones(2, 3), (4,)), ValueError, "input must end in the dimensions normalized_shape ([4]), got shape [2, 3]"),
        ((torch.ones(2, 3), ()), ValueError, "normalized_shape must name at least one dimension"),
        ((torch.ones(2, 3), (3,), torch.ones(4)), ValueError, "weight must have shape [3] (normalized_shape), got [4]"),
        ((torch.ones(2, 3), (3,), None, torch.ones(4)), ValueError, "bias must have shape [3] (normalized_shape), got [4]"),
        ((torch.ones(2, 3), (3,), None, torch.ones(3).double()), TypeError, "bias must have the dtype of input (Float), got Double"),
        ((torch.ones(2, 3).int(), (3,)), TypeError, "input must be float64, float32, float16 or bfloat16, got Int"),
        ((torch.ones(2, 3), (3,), None, torch.ones(3, device="meta")), RuntimeError, "bias must be on the device of input (cpu)"),
        ((torch.ones(2, 3), (3,), None, None, "small"), TypeError, "layer_norm: the arguments must be"),
    ],
)
def test_layer_norm_bad_input(arguments, error, sentence):
    with pytest.raises(error) as raised:
        functional.layer_norm(*arguments)
    assert sentence in str(raised.value) and "\n" not in str(raised.value)
