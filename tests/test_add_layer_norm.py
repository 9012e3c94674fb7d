import harness
import pytest
import residual
import torch
from harness import every_backend, every_dtype, every_layout, nan_filled_outputs, normal  # noqa: F401
from pylayers import functional, reference

import pylayers

# [rows, dim]: around the widths at which kernels change their path, multiples of nothing, few and many rows.
SIZES = [(1, 1), (3, 7), (2, 8), (9, 100), (65, 33), (3, 1000), (5, 1024), (2, 3001), (1, 8192), (2, 17001)]
# Dtypes of input, of the residual and of the sum, where they are not one.
MIXED = [
    (own, residual, total)
    for own in (torch.bfloat16, torch.float16)
    for residual, total in ((torch.float32, torch.float32), (own, torch.float32), (torch.float32, own))
]
every_mixture = pytest.mark.parametrize("dtypes", MIXED, ids=lambda three: "-".join(str(one)[6:] for one in three))


def both(residual_dtype=None, eps=1e-5, **options):
    """Ours and the definition."""
    calls = functional.add_layer_norm, reference.add_layer_norm
    return tuple(residual.over_last(call, eps, residual_dtype, **options) for call in calls)


def tensors(*size, **kind):
    return residual.tensors(*size, parameters=2, **kind)


@every_backend
@every_dtype
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_add_layer_norm(backend, device, dtype, size):
    harness.matches_float64(*both(), tensors(*size, dtype=dtype, device=device), backend)


@every_backend
@every_mixture
@pytest.mark.parametrize("size", [(5, 64), (3, 1001), (2, 4096)], ids=str)
def test_add_layer_norm_mixed_dtypes(backend, device, dtypes, size):
    own, stream, total = dtypes
    inputs = tensors(*size, dtype=own, residual=stream, device=device)
    harness.matches_float64(*both(total), inputs, backend)


@every_backend
def test_add_layer_norm_mixed_dtypes_of_long_rows(backend, device):
    inputs = tensors(2, 17000, dtype=torch.bfloat16, residual=torch.float32, device=device)
    harness.matches_float64(*both(torch.bfloat16), inputs, backend)


@every_backend
def test_add_layer_norm_many_rows(backend, device):
    """Several rows for each partial sum of a GPU, more than a block works on at once."""
    harness.matches_float64(*both(), tensors(600, 1000, device=device), backend)


@every_backend
@every_dtype
@pytest.mark.parametrize("given", range(2, 5))
def test_add_layer_norm_eps_and_parameters(backend, device, dtype, given):
    harness.matches_float64(*both(eps=0.5), tensors(6, 40, dtype=dtype, device=device)[:given], backend)


@every_backend
@every_dtype
@every_layout
def test_add_layer_norm_strides(backend, device, dtype, layout):
    x, stream, *parameters = tensors(5, 24, dtype=dtype, device=device)
    harness.matches_float64(*both(), (layout(x), stream, *parameters), backend)
    harness.matches_float64(*both(), (x, layout(stream), *parameters), backend)


@every_backend
@every_layout
def test_add_layer_norm_strides_of_a_float32_residual(backend, device, layout):
    x, stream, *parameters = tensors(5, 24, dtype=torch.bfloat16, residual=torch.float32, device=device)
    harness.matches_float64(*both(torch.float32), (x, layout(stream), *parameters), backend)


@every_backend
@pytest.mark.parametrize("shape", [(0, 8), (3, 0, 8), (4, 0)], ids=str)
def test_add_layer_norm_empty(backend, device, shape):
    residual.empty(both()[0], shape, 2, backend, device)


@every_backend
@pytest.mark.parametrize("unused", [0, 1], ids=["y", "sum"])
def test_add_layer_norm_one_output_is_enough(backend, device, unused):
    residual.one_output_is_enough(*both(), tensors(6, 40, device=device), backend, unused)
    mixed = tensors(6, 40, dtype=torch.bfloat16, residual=torch.float32, device=device)
    residual.mixed_gradients(both, mixed, backend, unused)


@every_backend
@pytest.mark.parametrize("stream", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dim", [12, 17000])
@pytest.mark.parametrize("wanted", range(4))
def test_add_layer_norm_only_the_gradient_asked_for(backend, device, wanted, dim, stream):
    """float32 throughout, or 16-bit beside a float32 residual: then the two gradients of the sum are two tensors."""
    if stream == torch.float32:
        return residual.only_the_gradient_asked_for(*both(), tensors(7, dim, device=device), backend, wanted)
    inputs = tensors(7, dim, dtype=stream, residual=torch.float32, device=device)
    residual.only_the_mixed_gradient_asked_for(both, inputs, backend, wanted)


def test_add_layer_norm_sums_as_torch_adds():
    residual.sums_as_torch_adds(both, *tensors(5, 33)[:2])


def test_add_layer_norm_one_gradient_for_both():
    residual.one_gradient_for_both(both()[0], tensors(5, 33))


def test_add_layer_norm_saves_the_sum_alone():
    residual.saves_the_sum_alone(both()[0], tensors(4, 8))


def test_add_layer_norm_derivatives():
    harness.derivatives_hold(both(eps=1e-3)[0], tensors(3, 5))
    harness.derivatives_hold(lambda x, r: functional.add_layer_norm(x, r, (2, 3), eps=1e-3), (normal(2, 2, 3), normal(2, 2, 3, seed=1)))


def test_add_layer_norm_transforms():
    residual.transforms_match(*both(), tensors(3, 4))


def test_add_layer_norm_compiles():
    x, stream, *parameters = tensors(4, 6)
    harness.compiles(lambda x, *others: residual.joined(both()[0])(x, x * 2, *others) * 2, (x, *parameters))


@pytest.mark.parametrize("grad", [False, True])
def test_add_layer_norm_opcheck(grad):
    x, stream, *parameters = (one.requires_grad_(grad) for one in tensors(3, 8, 6))
    harness.passes_opcheck("add_layer_norm", x, stream, (6,), *parameters, 1e-5, None)
    harness.passes_opcheck("add_layer_norm", x.bfloat16(), stream, (8, 6))
    held = [one.detach() for one in (x, stream, *parameters)]
    harness.passes_opcheck("add_layer_norm_forward", *held, 1, 1e-5, residual.FLOAT, True)
    harness.passes_opcheck("add_layer_norm_backward", x, stream, x, parameters[0], torch.ones(3, 8), torch.ones(3, 8), 1, 1e-5, [True, True, True, True])
    harness.passes_opcheck("add_layer_norm_backward", x, None, x, None, torch.ones(3, 8), torch.ones(3, 8), 1, 1e-5, [False, True, False, False])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_add_layer_norm_autocast(dtype):
    residual.autocast(pylayers.AddLayerNorm(8), dtype)


def test_add_layer_norm_module():
    for arguments in ((16,), ((4, 16), 1e-3), (16, 1e-5, False), (16, 1e-5, True, False)):
        ours, plain = pylayers.AddLayerNorm(*arguments), pylayers.LayerNorm(*arguments)
        harness.state_exchanges(ours, plain)
        assert ours.extra_repr() == plain.extra_repr()
        x, stream = normal(7, 4, 16), normal(7, 4, 16, seed=1)
        y, total = ours(x, stream)
        assert torch.equal(total, x + stream) and torch.equal(y, plain(x + stream))
    harness.keeps_the_module_contract(lambda **kind: pylayers.AddLayerNorm(16, **kind), normal(3, 16), normal(3, 16, seed=1))
    kept = pylayers.AddLayerNorm(16, dtype=torch.bfloat16, residual_dtype=torch.float32)
    x = normal(3, 16, dtype=torch.bfloat16)
    assert [one.dtype for one in kept(x, x)] == [torch.bfloat16, torch.float32] and "residual_dtype=torch.float32" in repr(kept)


ONE = torch.ones(2, 3)


@pytest.mark.parametrize(
    "arguments,options,error,sentence",
    [
        ((ONE, 3, (3,)), {}, TypeError, "add_layer_norm: residual must be a Tensor, got int"),
        ((ONE, ONE, (4,)), {}, ValueError, "input must end in the dimensions normalized_shape ([4]), got shape [2, 3]"),
        ((ONE, ONE[:1], (3,)), {}, ValueError, "add_layer_norm: residual must have the shape of input [2, 3], got [1, 3]"),
        ((ONE, ONE.half(), (3,)), {}, TypeError, "residual must have the dtype of input (Float), got Half"),
        ((ONE.half(), ONE.bfloat16(), (3,)), {}, TypeError, "must have the dtype of input (Half) or Float, got BFloat16"),
        ((ONE.half(), ONE, (3,)), {"residual_dtype": torch.float64}, TypeError, "residual_dtype must be the dtype of input (Half)"),
        ((ONE, ONE, (3,)), {"residual_dtype": "float32"}, TypeError, "add_layer_norm: the arguments must be"),
        ((ONE, ONE.to("meta"), (3,)), {}, RuntimeError, "residual must be on the device of input (cpu), got meta"),
        ((ONE, ONE, (3,), torch.ones(4)), {}, ValueError, "weight must have shape [3] (normalized_shape), got [4]"),
    ],
)
def test_add_layer_norm_bad_input(arguments, options, error, sentence):
    with pytest.raises(error) as raised:
        functional.add_layer_norm(*arguments, **options)
    assert sentence in str(raised.value) and "\n" not in str(raised.value)
