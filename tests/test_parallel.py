import copy

import harness
import pytest
import torch
from harness import every_backend, every_dtype, every_layout, nan_filled_outputs, normal  # noqa: F401
from pylayers import functional, reference
from pylayers.reference.linear import ACTIVATIONS
from torch import nn

import pylayers

# [rows, inner] and the widths of the branches. 32 rows and more are one product over all weights, unless these are large.
SIZES = [((1, 1), (1,)), ((3, 7), (5, 2)), ((40, 16), (3, 8, 1)), ((5, 12), (0, 4))]
LARGE = ((40, 300), (70, 64))
every_size = pytest.mark.parametrize("size,widths", SIZES, ids=str)


def tensors(size, widths, biases=True, **kind):
    rows, inner = size
    weights = [normal(width, inner, seed=1, **kind) / inner**0.5 for width in widths]
    return (normal(rows, inner, **kind), *weights, *(normal(width, seed=2, **kind) for width in widths if biases))


def of_lists(call, count, **kind):
    return lambda x, *others: call(x, list(others[:count]), list(others[count:]) or None, **kind)


def both(count, **kind):
    return of_lists(functional.parallel_linear, count, **kind), of_lists(reference.parallel_linear, count, **kind)


def linears(*activations, **kind):
    return [pylayers.Linear(6, 3 + i, activation=one, **kind) for i, one in enumerate(activations)]


@every_backend
@every_dtype
@every_size
def test_parallel_linear(backend, device, dtype, size, widths):
    harness.matches_float64(*both(len(widths)), tensors(size, widths, dtype=dtype, device=device), backend)


@every_backend
@pytest.mark.parametrize("rows", [24, 40])
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_parallel_linear_activations(backend, device, activation, rows):
    for biases in (True, False):
        inputs = tensors((rows, 12), (10, 6), biases=biases, device=device)
        harness.matches_float64(*both(2, activation=activation), inputs, backend)


@pytest.mark.parametrize("activation", [None, "gelu", "relu"])
def test_parallel_linear_large(activation):
    harness.matches_float64(*both(2, activation=activation), tensors(*LARGE), "cpu")


@every_backend
@every_layout
def test_parallel_linear_strides(backend, device, layout):
    for rows in (6, 40):
        x, first, second, *biases = tensors((rows, 12), (4, 3), device=device)
        harness.matches_float64(*both(2), (layout(x), first, second, *biases), backend)
        harness.matches_float64(*both(2), (x, layout(first), second, *biases), backend)


@every_backend
@pytest.mark.parametrize("shape", [(12,), (2, 3, 12), (0, 12), (2, 20, 12)], ids=str)
def test_parallel_linear_any_number_of_dimensions(backend, device, shape):
    leaves = [one.requires_grad_() for one in tensors((1, 12), (5, 2), device=device)]
    x = normal(*shape, device=device).requires_grad_()
    results = []
    for call in both(2, activation="silu"):
        with pylayers.backend(backend):
            y = call(x, *leaves[1:])
        results.append([y, *torch.autograd.grad(y.square().sum(), [x, *leaves[1:]])])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("asked", [(0,), (1,), (2, 5), (4,), (1, 2, 3, 4, 5, 6)], ids=str)
def test_parallel_linear_only_the_gradients_asked_for(asked):
    leaves = tensors((6, 12), (5, 2, 3))
    for i, one in enumerate(leaves):
        one.requires_grad_(i in asked)
    (functional.parallel_linear(leaves[0], leaves[1:4], leaves[4:])).square().sum().backward()
    exact = [one.detach().double().requires_grad_() for one in leaves]
    reference.parallel_linear(exact[0], exact[1:4], exact[4:]).square().sum().backward()
    for i, (one, other) in enumerate(zip(leaves, exact, strict=True)):
        assert (one.grad is None) == (i not in asked)
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad.float(), rtol=1e-4, atol=1e-3)


def test_parallel_linear_some_biases():
    for rows in (3, 40):
        x, *others = tensors((rows, 12), (5, 2, 3))
        weights, biases = others[:3], [None, *others[4:]]
        for activation in (None, "gelu", "relu"):
            calls = (functional.parallel_linear, reference.parallel_linear)
            ours, exact = (call(x, weights, biases, activation=activation) for call in calls)
            torch.testing.assert_close(ours, exact)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_parallel_linear_survives_an_edit_of_its_output(activation):
    results = []
    for edit in (lambda y: y.div_(2), lambda y: y / 2):
        leaves = [one.requires_grad_() for one in tensors((6, 12), (5, 2))]
        edit(both(2, activation=activation)[0](*leaves)).square().sum().backward()
        results.append([one.grad for one in leaves])
    torch.testing.assert_close(*results)


def test_parallel_linear_writes_products_to_their_places():
    """No copy of a product: the profiler sees neither cat nor copy of that size."""
    x, *weights = tensors(*LARGE, biases=False)
    with torch.profiler.profile() as profile:
        functional.parallel_linear(x, weights)
    names = {event.name for event in profile.events()}
    assert "aten::cat" not in names and "aten::copy_" not in names, names


@pytest.mark.parametrize("activation", [None, "gelu", "relu"])
def test_parallel_linear_derivatives(activation):
    harness.derivatives_hold(both(2, activation=activation)[0], tensors((3, 4), (2, 3)))


def test_parallel_linear_transforms():
    harness.transforms_match(*both(2, activation="tanh"), tensors((2, 3), (2, 1)))


@pytest.mark.parametrize("activation", [None, "relu"])
def test_parallel_linear_compiles(activation):
    harness.compiles(lambda *leaves: both(2, activation=activation)[0](*leaves) * 2, tensors((3, 4), (5, 2)))


@pytest.mark.parametrize("activation", [None, "gelu"])
def test_parallel_linear_opcheck(activation):
    for size in ((3, 4), (40, 4)):
        x, *others = (one.requires_grad_() for one in tensors(size, (5, 2)))
        harness.passes_opcheck("parallel_linear", x, others[:2], [None, others[3]], activation)
    x, *others = tensors((3, 4), (5, 2))
    harness.passes_opcheck("parallel_linear_forward", x, others[:2], [None, others[3]])
    harness.passes_opcheck("parallel_linear_backward", normal(3, 7), x, others[:2], [1, 1, 0, 1])


def test_parallel_linear_autocast():
    x, *others = tensors((3, 4), (5, 2))
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = (call(x, others[:2], others[2:]) for call in (functional.parallel_linear, reference.parallel_linear))
    assert y.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(y, expected, rtol=2e-2, atol=2e-2)


def test_parallel_linear_repeats_bit_by_bit_with_any_number_of_threads():
    before, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            leaves = [one.requires_grad_() for one in tensors(*LARGE)]
            y = functional.parallel_linear(leaves[0], leaves[1:3], leaves[3:], activation="gelu")
            results.append((y, *torch.autograd.grad(y.square().sum(), leaves)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(results[1], results[2], strict=True))


BRANCHES = {
    "linear": lambda: linears(None, None, None),
    "one activation": lambda: linears("relu", "relu"),
    "several activations": lambda: linears("relu", None),
    "any modules": lambda: [nn.Linear(6, 2), nn.Sequential(pylayers.Linear(6, 4), nn.Tanh()), nn.Identity()],
    "one": lambda: linears("gelu"),
    "without a bias": lambda: [pylayers.Linear(6, 2), pylayers.Linear(6, 3, bias=False)],
}


@pytest.mark.parametrize("make", BRANCHES.values(), ids=BRANCHES.keys())
@pytest.mark.parametrize("rows", [3, 50])
def test_parallel(make, rows):
    torch.manual_seed(0)
    branches = make()
    layer, x = pylayers.Parallel(*branches), normal(rows, 6).requires_grad_()
    expected = torch.cat([branch(x) for branch in branches], -1)
    torch.testing.assert_close(layer(x), expected)
    leaves, grad = [x, *layer.parameters()], normal(*expected.shape)
    ours, theirs = (torch.autograd.grad(y, leaves, grad) for y in (layer(x), expected))
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(layer(x.reshape(1, rows, 6)), expected.unsqueeze(0))


def test_parallel_along_another_dimension():
    x = normal(2, 3, 6)
    first, second = pylayers.Linear(6, 4), pylayers.Linear(6, 4)
    for dim in (0, 1, -2):
        torch.testing.assert_close(pylayers.Parallel(first, second, dim=dim)(x), torch.cat([first(x), second(x)], dim))
    torch.testing.assert_close(pylayers.Parallel(first, second, dim=2)(x), torch.cat([first(x), second(x)], 2))


def test_parallel_is_one_op_where_it_can_be(monkeypatch):
    calls = []
    one_op = functional.parallel_linear
    monkeypatch.setattr(functional, "parallel_linear", lambda *args, **kind: calls.append(1) or one_op(*args, **kind))
    x = normal(3, 6)
    for branches, runs_as_one in ((linears(None, None), 1), (linears("relu", "relu"), 1), (linears("relu", None), 0), (linears(None), 0)):
        calls.clear()
        pylayers.Parallel(*branches)(x)
        assert len(calls) == runs_as_one
    for special in (pylayers.ScaledLinear(6, 3, 2.0), nn.Linear(6, 3)):
        pylayers.Parallel(*linears(None), special)(x)
    assert calls == []


@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"])
def test_parallel_hooks_of_branches_fire(register):
    fired = []
    layer = pylayers.Parallel(*linears(None, None))
    handle = getattr(layer[1], register)(lambda *arguments: fired.append(1) and None)
    x = normal(3, 6).requires_grad_()
    layer(x).sum().backward()
    assert fired == [1]
    handle.remove()
    layer(x).sum().backward()
    assert fired == [1]


def test_parallel_global_hooks_fire():
    seen, layer = [], pylayers.Parallel(*linears(None, None))
    with torch.nn.modules.module.register_module_forward_hook(lambda module, *rest: seen.append(module)):
        layer(normal(3, 6))
    assert seen == [layer[0], layer[1], layer]


def test_parallel_parametrized_branch():
    layer, x = pylayers.Parallel(*linears(None, None)), normal(3, 6)

    class Twice(nn.Module):
        def forward(self, weight):
            return 2 * weight

    before = layer[1].weight.detach().clone()
    torch.nn.utils.parametrize.register_parametrization(layer[1], "weight", Twice())
    expected = torch.cat([layer[0](x), torch.nn.functional.linear(x, 2 * before, layer[1].bias)], -1)
    torch.testing.assert_close(layer(x), expected)


def test_parallel_module():
    layer = pylayers.Parallel(*linears(None, None, None))
    assert list(layer.state_dict()) == [f"{i}.{name}" for i in range(3) for name in ("weight", "bias")]
    assert list(layer.state_dict()) == list(nn.ModuleList(linears(None, None, None)).state_dict())
    assert len(layer) == 3 and list(layer)[2] is layer[-1] is layer[2]
    part = layer[1:]
    assert type(part) is pylayers.Parallel and list(part) == list(layer)[1:] and part.dim == -1
    assert repr(layer).startswith("Parallel(\n  dim=-1\n  (0")
    layer.append(pylayers.Linear(6, 1))
    assert layer(normal(2, 6)).shape == (2, 3 + 4 + 5 + 1)
    harness.keeps_the_module_contract(lambda **kind: pylayers.Parallel(*linears("gelu", "gelu", **kind)), normal(3, 6))


def test_parallel_ties():
    shared = pylayers.Linear(6, 4)
    layer, x = pylayers.Parallel(shared, shared), normal(3, 6)
    assert len(list(layer.parameters())) == 2
    layer(x).square().sum().backward()
    tied = shared.weight.grad.clone()
    apart = pylayers.Parallel(copy.deepcopy(shared), copy.deepcopy(shared))
    apart.zero_grad()
    apart(x).square().sum().backward()
    torch.testing.assert_close(tied, apart[0].weight.grad + apart[1].weight.grad)
    again = copy.deepcopy(layer)
    assert again[0] is again[1] and again[0].weight is not shared.weight


def test_parallel_trains_and_sees_direct_writes():
    layer, x = pylayers.Parallel(*linears(None, None)), normal(3, 6)
    with torch.no_grad():
        layer[0].weight.data.zero_()
        layer[0].bias.data.fill_(7)
    assert torch.equal(layer(x)[:, :3], torch.full((3, 3), 7.0))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.01)
    before = layer(x).square().sum()
    before.backward()
    optimizer.step()
    assert layer(x).square().sum() < before


def test_parallel_compiles():
    layer = pylayers.Parallel(*linears("gelu", "gelu"))
    harness.compiles(layer, (normal(3, 6),))


@pytest.mark.parametrize(
    "call,error,sentence",
    [
        (lambda x, w: functional.parallel_linear(x, w), TypeError, "parallel_linear: weights must be a list of Tensors, got Tensor"),
        (lambda x, w: functional.parallel_linear(x, [w, 3]), TypeError, "parallel_linear: weights[1] must be a Tensor, got int"),
        (lambda x, w: functional.parallel_linear(x, [w], ["b"]), TypeError, "parallel_linear: biases[0] must be a Tensor, got str"),
        (lambda x, w: functional.parallel_linear("x", [w]), TypeError, "parallel_linear: input must be a Tensor, got str"),
        (lambda x, w: functional.parallel_linear(x, []), ValueError, "parallel_linear: weights must hold at least one, got none"),
        (lambda x, w: functional.parallel_linear(x, [w], [None, None]), ValueError, "biases must be as many as weights (1), got 2"),
        (lambda x, w: functional.parallel_linear(x, [w, w[:, :2]]), ValueError, "the last dimension of input must be 2 (in_features of weights[1]), got shape [2, 3]"),
        (lambda x, w: functional.parallel_linear(x, [w[0]]), ValueError, "weights[0] must have shape (out_features, in_features), got [3]"),
        (lambda x, w: functional.parallel_linear(x, [w], [x[0]]), ValueError, "biases[0] must have shape (5,) (out_features of weights[0]), got [3]"),
        (lambda x, w: functional.parallel_linear(x, [w], activation="sin"), ValueError, "parallel_linear: activation must be None, 'relu'"),
        (lambda x, w: functional.parallel_linear(x, [w, w.half()]), TypeError, "weights[1] must have the dtype of input (Float), got Half"),
        (lambda x, w: functional.parallel_linear(x, [w.to("meta")]), RuntimeError, "weights[0] must be on the device of input (cpu), got meta"),
        (lambda x, w: functional.parallel_linear(x.int(), [w]), TypeError, "input must be float64, float32, float16 or bfloat16, got Int"),
        (lambda x, w: pylayers.Parallel(), ValueError, "Parallel: branches must be at least one, got none"),
        (lambda x, w: pylayers.Parallel(nn.Identity(), [w]), TypeError, "Parallel: branches[1] must be a Module, got list"),
    ],
)
def test_parallel_bad_input(call, error, sentence):
    with pytest.raises(error) as raised:
        call(torch.ones(2, 3), torch.ones(5, 3))
    assert sentence in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_parallel_linear_of_16_bits_in_blocks(dtype):
    """Products that are summed in float32 over several blocks along every dimension."""
    x = torch.randn(300, 520, dtype=dtype, requires_grad=True)
    weights = [(torch.randn(width, 520) / 23).to(dtype).requires_grad_() for width in (270, 31)]
    biases = [torch.randn(270, dtype=dtype, requires_grad=True), None]
    leaves = [x, *weights, biases[0]]
    y = pylayers.functional.parallel_linear(x, weights, biases)
    grad = torch.randn_like(y)
    ours = [y, *torch.autograd.grad(y, leaves, grad)]
    wide = [leaf.detach().double().requires_grad_() for leaf in leaves]
    exact = torch.cat([torch.nn.functional.linear(wide[0], wide[1], wide[3]), torch.nn.functional.linear(wide[0], wide[2])], -1)
    for one, other in zip(ours, [exact, *torch.autograd.grad(exact, wide, grad.double())], strict=True):
        assert (one - other).abs().max() <= 2 * torch.finfo(dtype).eps * other.abs().max()
