import os
import subprocess
import sys

import harness
import pytest
import torch
from harness import every_backend, every_dtype, every_layout, nan_filled_outputs, normal  # noqa: F401
from pylayers import functional, reference
from pylayers.reference.linear import ACTIVATIONS

import pylayers

# [rows, inner, dim]
SIZES = [(1, 1, 1), (3, 7, 5), (17, 40, 33), (2, 64, 300), (130, 16, 24)]
every_activation = pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)


def with_activation(call, activation, **kind):
    return lambda x, weight, bias=None: call(x, weight, bias, activation=activation, **kind)


def tensors(rows, inner, dim, bias=True, **kind):
    x, weight = normal(rows, inner, **kind), normal(dim, inner, seed=1, **kind) / inner**0.5
    return (x, weight, normal(dim, seed=2, **kind))[: 2 + bias]


@every_backend
@every_dtype
@every_activation
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_linear(backend, device, dtype, activation, size):
    ours, exact = (with_activation(call, activation) for call in (functional.linear, reference.linear))
    harness.matches_float64(ours, exact, tensors(*size, dtype=dtype, device=device), backend)


@every_backend
@pytest.mark.parametrize("size", [(2, 3, 9001), (1200, 2, 300)], ids=str)
def test_linear_of_several_tiles(backend, device, size):
    """Also along the rows of one partial sum of a GPU."""
    ours, exact = (with_activation(call, "gelu") for call in (functional.linear, reference.linear))
    harness.matches_float64(ours, exact, tensors(*size, device=device), backend)


@every_backend
@every_activation
def test_linear_without_bias(backend, device, activation):
    ours, exact = (with_activation(call, activation) for call in (functional.linear, reference.linear))
    harness.matches_float64(ours, exact, tensors(9, 12, 10, bias=False, device=device), backend)


@every_backend
@every_dtype
@pytest.mark.parametrize("scale", [0.125, -3.0, 1e-4])
def test_linear_scale(backend, device, dtype, scale):
    for activation in (None, "gelu"):
        ours, exact = (with_activation(call, activation, scale=scale) for call in (functional.linear, reference.linear))
        for bias in (True, False):
            harness.matches_float64(ours, exact, tensors(9, 12, 10, bias, dtype=dtype, device=device), backend)


@every_backend
@every_activation
def test_linear_scale_comes_before_the_activation(backend, device, activation):
    ours, exact = (with_activation(call, activation, scale=-1.5) for call in (functional.linear, reference.linear))
    harness.matches_float64(ours, exact, tensors(9, 12, 10, device=device), backend)


@every_backend
@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_linear_scale_of_zero(backend, device, activation):
    x, weight, bias = tensors(4, 12, 10, device=device)
    x[1, 1] = torch.nan
    with pylayers.backend(backend):
        y = functional.linear(x, weight, bias, activation=activation, scale=0.0)
    torch.testing.assert_close(y, reference.linear(x, weight, bias, activation, 0.0), equal_nan=True)


def test_linear_scale_of_one_is_the_product_alone():
    x, weight, bias = (one.requires_grad_() for one in tensors(4, 12, 10))
    for scale in (1, 1.0):
        assert functional.linear(x, weight, bias, scale=scale).grad_fn.name() == "AddmmBackward0"


@every_backend
@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_linear_rounds_once_before_the_edge_of_relu(backend, device, dtype, activation):
    inputs = tensors(256, 64, 100, dtype=dtype, device=device)
    ours, exact = (with_activation(call, activation, scale=0.5) for call in (functional.linear, reference.linear))
    harness.matches_float64(ours, exact, inputs, backend)


# [rows, inner, dim] that are worth a product of our own where the library's is slow: every kind of edge, and sums of several parts.
LARGE = [(530, 130, 250), (1100, 130, 130), (256, 1100, 64), (97, 2049, 257), (97, 256, 2100)]
on_the_cpu = pytest.mark.parametrize("backend", ["cpu"])


@on_the_cpu
@pytest.mark.parametrize("size", LARGE, ids=str)
@pytest.mark.parametrize("activation", [None, "gelu"])
def test_linear_large(backend, activation, size):
    ours, exact = (with_activation(call, activation) for call in (functional.linear, reference.linear))
    for bias in (True, False):
        harness.matches_float64(ours, exact, tensors(*size, bias), backend)


@on_the_cpu
@every_layout
def test_linear_large_strides(backend, layout):
    x, weight, bias = tensors(*LARGE[0])
    harness.matches_float64(functional.linear, reference.linear, (layout(x), weight, bias), backend)
    harness.matches_float64(functional.linear, reference.linear, (x, layout(weight), bias), backend)
    harness.matches_float64(functional.linear, reference.linear, (x, weight, layout(bias)), backend)
    grad = layout(normal(LARGE[0][0], LARGE[0][2]))
    weighed = (lambda *of, call=call: call(*of) * grad.to(of[0].dtype) for call in (functional.linear, reference.linear))
    harness.matches_float64(*weighed, (x, weight, bias), backend)


def test_linear_large_compiles():
    harness.compiles(functional.linear, tensors(*LARGE[0]))


@on_the_cpu
def test_linear_large_in_columns_of_others(backend):
    x, weight = tensors(*LARGE[0], bias=False)
    ours, exact = (lambda x, *weights, call=call: call(x, weights) for call in (functional.parallel_linear, reference.parallel_linear))
    harness.matches_float64(ours, exact, (x, weight, weight[:99].clone()), backend)


def in_a_loss(rows):
    target = torch.arange(rows) % 7
    return (lambda x, w, *b, call=call: call(x, w, target, linear_bias=b[0]) for call in (functional.linear_cross_entropy, reference.linear_cross_entropy))


@on_the_cpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [(97, 1101, 530), (130, 520, 2100)], ids=str)
def test_linear_large_in_a_loss(backend, dtype, size):
    """Where bfloat16 is summed in float32."""
    x, weight, bias = (one.to(dtype) for one in tensors(*size))
    harness.matches_float64(*in_a_loss(size[0]), (x, weight, bias), backend, long_sums=True)


@on_the_cpu
@every_layout
def test_linear_large_in_a_loss_strides(backend, layout):
    x, weight, bias = (one.bfloat16() for one in tensors(97, 520, 70))
    harness.matches_float64(*in_a_loss(97), (layout(x), weight, bias), backend, long_sums=True)
    harness.matches_float64(*in_a_loss(97), (x, layout(weight), bias), backend, long_sums=True)
    harness.matches_float64(*in_a_loss(97), (layout(x)[:, :519], layout(weight)[:, :519], bias), backend, long_sums=True)


@pytest.mark.skipif("PYLAYERS_OWN_PRODUCTS" in os.environ, reason="the process that it starts")
@pytest.mark.parametrize("own,capability", [("0", "best"), ("1", "best"), ("1", "avx2"), ("1", "baseline")])
def test_linear_large_products_of_either_kind(own, capability):
    """Whatever this processor prefers."""
    environment = os.environ | {"PYLAYERS_OWN_PRODUCTS": own}
    if capability != "best":
        environment["PYLAYERS_CPU_CAPABILITY"] = capability
    tests = [f"{__file__}::test_linear_large{which}" for which in ("", "_strides", "_in_a_loss", "_in_a_loss_strides", "_in_columns_of_others", "_node", "_in_fewer_digits", "_threads")]
    run = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", *tests], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.skipif("PYLAYERS_OWN_PRODUCTS" not in os.environ, reason="without a choice it is the processor's")
def test_linear_large_node():
    own = os.environ["PYLAYERS_OWN_PRODUCTS"] == "1"
    name = functional.linear(*(one.requires_grad_() for one in tensors(*LARGE[0]))).grad_fn.name()
    assert name == ("pylayers::LinearBackward" if own else "AddmmBackward0")


@pytest.mark.skipif(os.environ.get("PYLAYERS_OWN_PRODUCTS") != "1", reason="the library's has no other")
def test_linear_large_in_fewer_digits():
    """Who asks oneDNN for bfloat16 within products of float32 gets it, as from torch.nn.Linear."""
    inputs = tensors(*LARGE[2])
    torch.set_float32_matmul_precision("medium")
    try:
        assert torch.equal(functional.linear(*inputs), torch.nn.functional.linear(*inputs))
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.skipif(os.environ.get("PYLAYERS_OWN_PRODUCTS") != "1", reason="a promise of our own product alone")
def test_linear_large_threads():
    of_threads = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        of_threads.append([functional.linear(*tensors(*size)) for size in LARGE])
    for others in of_threads[1:]:
        assert all(torch.equal(one, other) for one, other in zip(of_threads[0], others, strict=True))


@every_backend
@every_layout
def test_linear_strides(backend, device, layout):
    ours, exact = (with_activation(call, "gelu") for call in (functional.linear, reference.linear))
    x, weight, bias = tensors(6, 12, 10, device=device)
    harness.matches_float64(ours, exact, (layout(x), weight, bias), backend)
    harness.matches_float64(ours, exact, (x, layout(weight), bias), backend)


@every_backend
def test_linear_any_number_of_dimensions(backend, device):
    for shape in ((12,), (2, 3, 12), (2, 3, 4, 12)):
        for activation in (None, "relu", "silu"):
            ours, exact = (with_activation(call, activation) for call in (functional.linear, reference.linear))
            _, weight, bias = tensors(1, 12, 10, device=device)
            harness.matches_float64(ours, exact, (normal(*shape, device=device), weight, bias), backend)


@every_backend
@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
@pytest.mark.parametrize("size", [(0, 4, 3), (2, 0, 3), (2, 4, 0)], ids=str)
def test_linear_empty(backend, device, activation, size):
    rows, inner, dim = size
    x, weight = torch.ones(rows, inner, device=device), torch.ones(dim, inner, device=device)
    leaves = [one.requires_grad_() for one in (x, weight, torch.ones(dim, device=device))]
    with pylayers.backend(backend):
        y = functional.linear(*leaves, activation=activation)
        y.sum().backward()
    expected = reference.linear(*(one.detach() for one in leaves), activation=activation)
    torch.testing.assert_close(y.detach(), expected)
    assert all(one.grad.shape == one.shape and not one.grad.isnan().any() for one in leaves)
    if rows == 0:
        assert torch.equal(leaves[2].grad, torch.zeros(dim, device=device))


@every_backend
@every_activation
def test_linear_survives_an_edit_of_its_output(backend, device, activation):
    results = []
    for edit in (lambda y: y.div_(2), lambda y: y / 2):
        leaves = [one.requires_grad_() for one in tensors(7, 12, 10, device=device)]
        with pylayers.backend(backend):
            y = edit(functional.linear(*leaves, activation=activation))
            y.square().sum().backward()
        results.append([one.grad for one in leaves])
    for edited, untouched in zip(*results, strict=True):
        torch.testing.assert_close(edited, untouched)


@pytest.mark.parametrize("frozen", [(0,), (1, 2), (0, 1), (0, 2)], ids=str)
def test_linear_only_the_gradients_asked_for(frozen):
    leaves = tensors(7, 12, 10)
    for i, one in enumerate(leaves):
        one.requires_grad_(i not in frozen)
    functional.linear(*leaves, activation="gelu").square().sum().backward()
    exact = [one.detach().double().requires_grad_() for one in leaves]
    reference.linear(*exact, activation="gelu").square().sum().backward()
    for i, (one, other) in enumerate(zip(leaves, exact, strict=True)):
        assert (one.grad is None) == (i in frozen)
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
def test_linear_saves_no_second_output(activation):
    saved = []
    leaves = [one.requires_grad_() for one in tensors(7, 12, 10)]
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.data_ptr()) or t, lambda t: t):
        y = functional.linear(*leaves, activation=activation)
    assert set(saved) == {one.data_ptr() for one in leaves} | {y.data_ptr()}


def test_linear_checkpoint_frees_what_it_computes_again():
    leaves = [one.requires_grad_() for one in tensors(7, 12, 10)]
    call = with_activation(functional.linear, "relu")
    y = torch.utils.checkpoint.checkpoint(call, *leaves, use_reentrant=False)
    gradients = torch.autograd.grad(y.sum(), leaves)
    for one, other in zip(gradients, torch.autograd.grad(call(*leaves).sum(), leaves), strict=True):
        assert torch.equal(one, other)


@every_activation
def test_linear_derivatives(activation):
    harness.derivatives_hold(with_activation(functional.linear, activation), tensors(3, 4, 2))


@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
def test_linear_scale_derivatives(activation):
    harness.derivatives_hold(with_activation(functional.linear, activation, scale=-0.7), tensors(3, 4, 2))


def test_linear_scale_transforms():
    ours, exact = (with_activation(call, "silu", scale=0.3) for call in (functional.linear, reference.linear))
    harness.transforms_match(ours, exact, tensors(2, 3, 2))


@every_activation
def test_linear_transforms(activation):
    ours, exact = (with_activation(call, activation) for call in (functional.linear, reference.linear))
    harness.transforms_match(ours, exact, tensors(2, 3, 2))


@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
def test_linear_compiles(activation):
    harness.compiles(lambda *leaves: with_activation(functional.linear, activation)(*leaves) * 2, tensors(3, 4, 5))
    harness.compiles(lambda *leaves: with_activation(functional.linear, activation)(*leaves).mul_(2), tensors(3, 4, 5))


@pytest.mark.parametrize("activation", [None, "gelu"])
def test_linear_scale_compiles(activation):
    harness.compiles(with_activation(functional.linear, activation, scale=0.5), tensors(3, 4, 5))


@pytest.mark.parametrize("activation,number", [(None, 0), ("relu", 1), ("gelu", 2)])
def test_linear_opcheck(activation, number):
    leaves = [one.requires_grad_() for one in tensors(3, 4, 5)]
    x, weight, bias = (one.detach() for one in leaves)
    y = reference.linear(x, weight, bias, activation)
    harness.passes_opcheck("linear", *leaves, activation)
    harness.passes_opcheck("linear", *leaves, activation, 0.5)
    harness.passes_opcheck("linear_forward", x, weight, bias, 0.5, number, True)
    harness.passes_opcheck("linear_backward", y, x, weight, y, bias, 0.5, number, [True, True, True])


def test_linear_epilogue_opcheck():
    product, bias = normal(3, 5), normal(5)
    harness.passes_opcheck("linear_epilogue", product, bias, 0.5, 2)
    harness.passes_opcheck("linear_epilogue_backward", product, product, bias, 0.5, 2, [True, True])


def test_linear_frees_the_product_before_the_products_of_its_backward():
    """The node of the epilogue keeps the product; the node of the product keeps input and weight alone."""
    y = functional.linear(*(one.requires_grad_() for one in tensors(7, 12, 10)), activation="gelu")
    names = [type(y.grad_fn).__name__, *(type(node).__name__ for node, _ in y.grad_fn.next_functions)]
    assert any("Mm" in name for name in names), names


@pytest.mark.parametrize("activation", [None, "silu"])
def test_linear_autocast(activation):
    x, weight, bias = tensors(3, 4, 5)
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = (call(x, weight, bias, activation=activation) for call in (functional.linear, reference.linear))
    assert y.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(y, expected, rtol=2e-2, atol=2e-2)


def test_linear_module():
    for arguments in ((4, 5), (4, 5, False)):
        torch.manual_seed(0)
        ours = pylayers.Linear(*arguments)
        torch.manual_seed(0)
        theirs = torch.nn.Linear(*arguments)
        harness.state_exchanges(ours, theirs)
        assert ours.extra_repr() == theirs.extra_repr()
        assert torch.equal(ours(normal(3, 4)), theirs(normal(3, 4)))
    assert "activation='relu'" in repr(pylayers.Linear(4, 5, activation="relu"))
    harness.keeps_the_module_contract(lambda **kind: pylayers.Linear(4, 5, activation="relu", **kind), normal(3, 4))


def test_scaled_linear():
    torch.manual_seed(0)
    ours = pylayers.ScaledLinear(4, 5, 0.25)
    torch.manual_seed(0)
    theirs = torch.nn.Linear(4, 5)
    harness.state_exchanges(ours, theirs)
    assert ours.extra_repr() == theirs.extra_repr() + ", scale=0.25"
    torch.testing.assert_close(ours(normal(3, 4)), 0.25 * theirs(normal(3, 4)))
    relu = pylayers.ScaledLinear(4, 5, -2, bias=False, activation="relu")
    torch.testing.assert_close(relu(normal(3, 4)), torch.relu(-2 * normal(3, 4) @ relu.weight.T))
    assert isinstance(ours, pylayers.Linear) and list(dict(ours.named_parameters())) == ["weight", "bias"]
    harness.keeps_the_module_contract(lambda **kind: pylayers.ScaledLinear(4, 5, 3.0, activation="silu", **kind), normal(3, 4))


def test_linear_tied_weight():
    first, second = pylayers.Linear(4, 4, activation="tanh"), pylayers.Linear(4, 4)
    second.weight = first.weight
    net = torch.nn.Sequential(first, second)
    net(normal(3, 4)).sum().backward()
    tied = first.weight.grad.clone()
    separate = torch.nn.Sequential(pylayers.Linear(4, 4, activation="tanh"), pylayers.Linear(4, 4))
    separate.load_state_dict(net.state_dict())
    separate(normal(3, 4)).sum().backward()
    torch.testing.assert_close(tied, separate[0].weight.grad + separate[1].weight.grad)


@pytest.mark.parametrize(
    "call,error,sentence",
    [
        (lambda x, w: functional.linear(x, "w"), TypeError, "linear: weight must be a Tensor, got str"),
        (lambda x, w: functional.linear(x, w[:, :2]), ValueError, "the last dimension of input must be 2 (in_features of weight), got shape [2, 3]"),
        (lambda x, w: functional.linear(x, w[0]), ValueError, "weight must have shape (out_features, in_features), got [3]"),
        (lambda x, w: functional.linear(x, w, x[0]), ValueError, "bias must have shape (5,) (out_features of weight), got [3]"),
        (lambda x, w: functional.linear(x, w, activation="sin"), ValueError, "activation must be None, 'relu'"),
        (lambda x, w: functional.linear(x, w, activation=3), TypeError, "linear: the arguments must be"),
        (lambda x, w: functional.linear(x, w, scale=float("inf")), ValueError, "linear: scale must be finite, got inf"),
        (lambda x, w: functional.linear(x, w, scale="1"), TypeError, "linear: the arguments must be"),
        (lambda x, w: pylayers.ScaledLinear(3, 5, float("nan")), ValueError, "ScaledLinear: scale must be finite, got nan"),
        (lambda x, w: functional.linear(x, w.half()), TypeError, "weight must have the dtype of input (Float), got Half"),
        (lambda x, w: functional.linear(x.int(), w), TypeError, "input must be float64, float32, float16 or bfloat16, got Int"),
        (lambda x, w: functional.linear(x[0, 0], w), ValueError, "got shape []"),
        (lambda x, w: functional.linear(x, w.to("meta")), RuntimeError, "weight must be on the device of input (cpu), got meta"),
        (lambda x, w: pylayers.Linear(3, 5, activation="sin"), ValueError, "Linear: activation must be one of None, 'relu'"),
    ],
)
def test_linear_bad_input(call, error, sentence):
    with pytest.raises(error) as raised:
        call(torch.ones(2, 3), torch.ones(5, 3))
    assert sentence in str(raised.value) and "\n" not in str(raised.value)
