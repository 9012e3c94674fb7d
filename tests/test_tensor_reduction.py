from functools import partial

import harness
import pytest
import torch
from harness import every_backend, every_dtype, every_layout, nan_filled_outputs, normal  # noqa: F401
from pylayers import functional, reference
from pylayers.reference.tensor_reduction import unpacked

import pylayers

# [rows, in, out]. A packed weight of fewer than 16 outputs is treated as a full one.
SIZES = [(1, 1, 1), (3, 7, 2), (9, 40, 33), (1, 1, 16), (2, 65, 16)]
LARGE = [(150, 60, 17), (150, 128, 20)]  # several blocks of rows and of the triangle on a CPU, and on a GPU
matches_float64 = partial(harness.matches_float64, long_sums=True)
both_forms = pytest.mark.parametrize("symmetric", [False, True], ids=["full", "symmetric"])


def call_of(function, symmetric):
    return lambda x, weight, bias=None: function(x, weight, bias, symmetric=symmetric)


def calls(symmetric):
    return call_of(functional.tensor_reduction, symmetric), call_of(reference.tensor_reduction, symmetric)


def tensors(rows, dim, out, symmetric, bias=True, **kind):
    shape = (dim * (dim + 1) // 2,) if symmetric else (dim, dim)
    weight = normal(out, *shape, seed=1, **kind) / dim
    return (normal(rows, dim, **kind), weight, normal(out, seed=2, **kind))[: 2 + bias]


@every_backend
@every_dtype
@both_forms
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_tensor_reduction(backend, device, dtype, symmetric, size):
    matches_float64(*calls(symmetric), tensors(*size, symmetric, dtype=dtype, device=device), backend)


@every_backend
@both_forms
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", LARGE, ids=str)
def test_tensor_reduction_of_several_blocks(backend, device, dtype, symmetric, size):
    if backend == "reference" or pylayers.backends()[backend].note.startswith("interpreted"):
        pytest.skip("no blocks, or too many programs")
    matches_float64(*calls(symmetric), tensors(*size, symmetric, dtype=dtype, device=device), backend)


@every_backend
@both_forms
@every_layout
def test_tensor_reduction_strides(backend, device, symmetric, layout):
    x, weight, _ = tensors(6, 12, 18, symmetric, device=device)
    held = layout(weight.view(18, -1)).view(weight.shape)
    matches_float64(*calls(symmetric), (layout(x), weight), backend)
    matches_float64(*calls(symmetric), (x, held), backend)


@every_backend
@both_forms
def test_tensor_reduction_any_number_of_dimensions(backend, device, symmetric):
    _, weight, bias = tensors(1, 12, 8, symmetric, device=device)
    for shape in ((), (5,), (2, 3), (2, 3, 4)):
        matches_float64(*calls(symmetric), (normal(*shape, 12, device=device), weight, bias), backend)


@every_backend
@both_forms
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [(0, 4, 3), (2, 0, 3), (2, 4, 0)], ids=str)
def test_tensor_reduction_empty(backend, device, size, symmetric, bias):
    rows, dim, out = size
    shape = (out, dim * (dim + 1) // 2) if symmetric else (out, dim, dim)
    leaves = [torch.ones(one, device=device, requires_grad=True) for one in ((rows, dim), shape, (out,))[: 2 + bias]]
    with pylayers.backend(backend):
        y = functional.tensor_reduction(*leaves, symmetric=symmetric)
        y.sum().backward()
    assert torch.equal(y.detach(), torch.full((rows, out), float(bias), device=device))
    assert all(torch.equal(one.grad, torch.zeros_like(one)) for one in leaves[:2])
    if bias:
        assert torch.equal(leaves[2].grad, torch.full((out,), float(rows), device=device))


@every_backend
@pytest.mark.parametrize("out", [3, 40])
def test_tensor_reduction_is_bilinear_of_one_input_twice(backend, device, out):
    x, weight, bias = (one.requires_grad_() for one in tensors(9, 35, out, False, device=device))
    with pylayers.backend(backend):
        y, expected = functional.tensor_reduction(x, weight, bias), functional.bilinear(x, x, weight, bias)
        assert torch.equal(y, expected)
        grad = normal(9, out, device=device)
        for one, other in zip(*(torch.autograd.grad(it, (x, weight, bias), grad) for it in (y, expected)), strict=True):
            torch.testing.assert_close(one, other)


@every_backend
@pytest.mark.parametrize("out", [5, 20])
def test_tensor_reduction_symmetric_is_the_full_one(backend, device, out):
    x, packed = (one.double().requires_grad_() for one in tensors(9, 11, out, True, bias=False, device=device))
    with pylayers.backend(backend):
        y, full = functional.tensor_reduction(x, packed, symmetric=True), functional.tensor_reduction(x, unpacked(packed))
        torch.testing.assert_close(y, full)
        for one, other in zip(*(torch.autograd.grad(it.square().sum(), (x, packed)) for it in (y, full)), strict=True):
            torch.testing.assert_close(one, other)


@both_forms
@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2)], ids=str)
def test_tensor_reduction_only_the_gradients_asked_for(wanted, symmetric):
    leaves = tensors(7, 12, 20, symmetric)
    for i, one in enumerate(leaves):
        one.requires_grad_(i in wanted)
    ours, definition = calls(symmetric)
    ours(*leaves).square().sum().backward()
    exact = [one.detach().double().requires_grad_() for one in leaves]
    definition(*exact).square().sum().backward()
    for i, (one, other) in enumerate(zip(leaves, exact, strict=True)):
        assert (one.grad is not None) == (i in wanted)
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad.float(), rtol=1e-4, atol=1e-4)


@every_dtype
@both_forms
def test_tensor_reduction_does_not_depend_on_the_number_of_threads(dtype, symmetric):
    leaves = [one.requires_grad_() for one in tensors(300, 100, 150, symmetric, dtype=dtype)]
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            y = functional.tensor_reduction(*leaves, symmetric=symmetric)
            found.append((y, *torch.autograd.grad(y.sum(), leaves)))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


@both_forms
def test_tensor_reduction_saves_its_input_once(symmetric):
    saved, leaves = [], [one.requires_grad_() for one in tensors(7, 12, 8, symmetric)]
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.data_ptr()) or t, lambda t: t):
        functional.tensor_reduction(*leaves, symmetric=symmetric)
    assert saved == [one.data_ptr() for one in leaves[:2]]


@both_forms
def test_tensor_reduction_derivatives(symmetric):
    harness.derivatives_hold(calls(symmetric)[0], tensors(3, 3, 2, symmetric))


@both_forms
def test_tensor_reduction_transforms(symmetric):
    harness.transforms_match(*calls(symmetric), tensors(2, 3, 2, symmetric))


@both_forms
def test_tensor_reduction_compiles(symmetric):
    harness.compiles(lambda *leaves: calls(symmetric)[0](*leaves) * 2, tensors(3, 4, 5, symmetric))


@both_forms
@pytest.mark.parametrize("out", [3, 40])
def test_tensor_reduction_opcheck(symmetric, out):
    leaves = [one.requires_grad_() for one in tensors(3, 35, out, symmetric)]
    x, weight, bias = (one.detach() for one in leaves)
    harness.passes_opcheck("tensor_reduction", *leaves, symmetric)
    harness.passes_opcheck("tensor_reduction_forward", x, weight, bias, symmetric)
    harness.passes_opcheck("tensor_reduction_backward", normal(3, out), x, weight, symmetric, [True, True, True])
    harness.passes_opcheck("tensor_reduction_backward", normal(3, out), x, weight.requires_grad_(), symmetric, [True, False, True])


def test_tensor_reduction_autocast():
    x, weight, bias = tensors(3, 4, 5, True)
    with torch.autocast("cpu", torch.bfloat16):
        assert functional.tensor_reduction(x.bfloat16(), weight, bias, symmetric=True).dtype == torch.float32


@both_forms
def test_tensor_reduction_module(symmetric):
    torch.manual_seed(0)
    module = pylayers.TensorReduction(4, 5, symmetric=symmetric, bias=True)
    assert module.weight.shape == ((5, 10) if symmetric else (5, 4, 4)) and module.bias.shape == (5,)
    assert 0.4 < module.weight.abs().max() <= 0.5 and module.bias.abs().max() <= 0.5
    assert pylayers.TensorReduction(4, 5, symmetric=symmetric).bias is None
    assert module.extra_repr() == "in_features=4, out_features=5, bias=True" + symmetric * ", symmetric=True"
    harness.keeps_the_module_contract(
        lambda **kind: pylayers.TensorReduction(4, 5, symmetric=symmetric, bias=True, **kind), normal(3, 4)
    )
    with pytest.raises(ValueError, match="TensorReduction: in_features must be above 0"):
        pylayers.TensorReduction(0, 3)


def test_tensor_reduction_starts_as_bilinear_and_loads_its_state():
    torch.manual_seed(0)
    ours = pylayers.TensorReduction(4, 5, bias=True)
    torch.manual_seed(0)
    harness.state_exchanges(ours, torch.nn.Bilinear(4, 4, 5))


@both_forms
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("make", [torch.nn.Bilinear, pylayers.Bilinear])
def test_tensor_reduction_exchanges_weights_with_bilinear(make, bias, symmetric):
    bilinear = make(6, 6, 5, bias, dtype=torch.float64)
    ours = pylayers.TensorReduction.from_bilinear(bilinear, symmetric=symmetric)
    assert ours.symmetric == symmetric and ours.weight.dtype == torch.float64
    x = normal(3, 6).double()
    torch.testing.assert_close(ours(x), bilinear(x, x))
    back = ours.to_bilinear()
    assert type(back) is pylayers.Bilinear
    torch.testing.assert_close(back(x, x), bilinear(x, x))
    if symmetric:
        assert torch.equal(back.weight, back.weight.mT)
        assert torch.equal(pylayers.TensorReduction.from_bilinear(back, symmetric=True).weight, ours.weight)
    else:
        assert torch.equal(back.weight, bilinear.weight)
    assert ours.weight.data_ptr() != bilinear.weight.data_ptr() and back.weight.requires_grad
    with pytest.raises(ValueError, match="TensorReduction: bilinear must have in1_features = in2_features, got 6 and 7"):
        pylayers.TensorReduction.from_bilinear(make(6, 7, 5))


@pytest.mark.parametrize(
    "call,error,sentence",
    [
        (lambda x, w, p: functional.tensor_reduction(x, 3), TypeError, "tensor_reduction: weight must be a Tensor, got int"),
        (lambda x, w, p: functional.tensor_reduction(x, p), ValueError, "weight must have shape (out_features, 3, 3) (the last dimension of input [2, 3]), got [5, 6]"),
        (lambda x, w, p: functional.tensor_reduction(x, w[:, :2]), ValueError, "got [5, 2, 3]"),
        (lambda x, w, p: functional.tensor_reduction(x, w, symmetric=True), ValueError, "a symmetric weight must have shape (out_features, 6)"),
        (lambda x, w, p: functional.tensor_reduction(x, p[:, :5], symmetric=True), ValueError, "got [5, 5]"),
        (lambda x, w, p: functional.tensor_reduction(x[0, 0], w), ValueError, "input must have at least one dimension, got shape []"),
        (lambda x, w, p: functional.tensor_reduction(x, w, x[0]), ValueError, "bias must have shape (5,) (out_features of weight), got [3]"),
        (lambda x, w, p: functional.tensor_reduction(x, w, symmetric="no"), TypeError, "tensor_reduction: the arguments must be"),
        (lambda x, w, p: functional.tensor_reduction(x, w.half()), TypeError, "weight must have the dtype of input (Float), got Half"),
        (lambda x, w, p: functional.tensor_reduction(x.int(), w), TypeError, "input must be float64, float32, float16 or bfloat16, got Int"),
        (lambda x, w, p: functional.tensor_reduction(x, w.to("meta")), RuntimeError, "weight must be on the device of input (cpu), got meta"),
    ],
)
def test_tensor_reduction_bad_input(call, error, sentence):
    with pytest.raises(error) as raised:
        call(torch.ones(2, 3), torch.ones(5, 3, 3), torch.ones(5, 6))
    assert sentence in str(raised.value) and "\n" not in str(raised.value)
