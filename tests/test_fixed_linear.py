import copy
import pickle

import harness
import pytest
import torch
from harness import every_backend, every_dtype, nan_filled_outputs, normal  # noqa: F401
from pylayers import reference

import pylayers


@every_backend
@every_dtype
@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
def test_fixed_linear(backend, device, dtype, activation):
    weight, bias = normal(5, 7, device=device), normal(5, seed=1, device=device)
    for given in ((weight, bias), (weight,)):
        layer = pylayers.FixedLinear.from_weights(*(one.to(dtype) for one in given), activation=activation)
        exact = [one.to(dtype).double() for one in given]

        def definition(x, exact=exact):
            return reference.linear(x, *(one.to(x.dtype) for one in exact), activation=activation)

        def call(x, layer=layer):
            return layer(x)

        harness.matches_float64(call, definition, (normal(9, 7, dtype=dtype, device=device),), backend)


def test_fixed_linear_is_constant():
    layer, x = pylayers.FixedLinear(7, 5, activation="relu"), normal(9, 7).requires_grad_()
    assert list(layer.parameters()) == [] and list(layer.state_dict()) == ["weight", "bias"]
    before = copy.deepcopy(layer.state_dict())
    layer.train().requires_grad_(True)
    layer(x).square().sum().backward()
    assert x.grad.abs().sum() > 0 and layer.weight.grad is None and layer.bias.grad is None
    assert all(torch.equal(before[name], one) for name, one in layer.state_dict().items())


@pytest.mark.parametrize("activation", [None, "gelu"])
def test_fixed_linear_computes_no_gradient_of_its_weights(activation):
    """One product forward, one backward."""
    layer, x = pylayers.FixedLinear(7, 5, activation=activation), normal(9, 7).requires_grad_()
    with torch.profiler.profile() as profile:
        layer(x).sum().backward()
    products = [event.name for event in profile.events() if event.name in ("aten::mm", "aten::addmm")]
    assert len(products) == 2, products


def test_fixed_linear_moves_and_is_saved():
    layer, x = pylayers.FixedLinear(7, 5), normal(9, 7)
    for same in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(same(x), layer(x)) and type(same.weight) is torch.Tensor
    assert copy.deepcopy(layer).double()(x.double()).dtype == torch.float64
    other = pylayers.FixedLinear(7, 5)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), layer(x))
    meta = pylayers.FixedLinear(7, 5, device="meta")
    assert meta(x.to("meta")).shape == (9, 5)
    meta.to_empty(device="cpu").load_state_dict(layer.state_dict())
    assert torch.equal(meta(x), layer(x))


def test_fixed_linear_module():
    for arguments in ((7, 5), (7, 5, False)):
        torch.manual_seed(0)
        ours = pylayers.FixedLinear(*arguments)
        torch.manual_seed(0)
        theirs = torch.nn.Linear(*arguments)
        harness.state_exchanges(ours, theirs)
        assert ours.extra_repr() == theirs.extra_repr()
    assert "activation='relu'" in repr(pylayers.FixedLinear(7, 5, activation="relu"))
    assert pylayers.FixedLinear(7, 5, dtype=torch.float64).weight.dtype == torch.float64
    harness.keeps_the_module_contract(lambda **kind: pylayers.FixedLinear(7, 5, **kind), normal(3, 7))


def test_fixed_linear_from_weights_copies():
    weight, bias = torch.nn.Parameter(normal(5, 7)), normal(5)
    layer = pylayers.FixedLinear.from_weights(weight, bias)
    assert (layer.in_features, layer.out_features) == (7, 5) and not layer.weight.requires_grad
    assert torch.equal(layer.weight, weight) and torch.equal(layer.bias, bias)
    bias.zero_()
    assert layer.bias.abs().sum() > 0
    assert pylayers.FixedLinear.from_weights(weight).bias is None
    assert dict(layer.named_buffers()).keys() == {"weight", "bias"}


def test_fixed_linear_compiles():
    layer = pylayers.FixedLinear(7, 5, activation="gelu")
    harness.compiles(lambda x: layer(x) * 2, (normal(3, 7),))


@pytest.mark.parametrize(
    "call,error,sentence",
    [
        (lambda w: pylayers.FixedLinear(3, 5, activation="sin"), ValueError, "FixedLinear: activation must be one of None, 'relu'"),
        (lambda w: pylayers.FixedLinear.from_weights([1.0]), TypeError, "FixedLinear.from_weights: weight must be a Tensor, got list"),
        (lambda w: pylayers.FixedLinear.from_weights(w, 3), TypeError, "FixedLinear.from_weights: bias must be a Tensor, got int"),
        (lambda w: pylayers.FixedLinear.from_weights(w.int()), TypeError, "weight must be floating point, got torch.int32"),
        (lambda w: pylayers.FixedLinear.from_weights(w[0]), ValueError, "weight must have shape (out_features, in_features), got (3,)"),
        (lambda w: pylayers.FixedLinear.from_weights(w, w[0]), ValueError, "bias must have shape (5,), got (3,)"),
    ],
)
def test_fixed_linear_bad_input(call, error, sentence):
    with pytest.raises(error) as raised:
        call(torch.ones(5, 3))
    assert sentence in str(raised.value) and "\n" not in str(raised.value)
