"""The promises of lazy layers, each for every lazy layer that has the parameters for it."""

import copy
import io
import pickle
import warnings

import pytest
import torch
from harness import normal
from torch import nn
from torch.nn.parameter import UninitializedParameter, is_lazy

import pylayers

# Lazy layer, the plain one that it becomes on an input of 8 features.
LAYERS = {
    "LazyLinear": (lambda **kind: pylayers.LazyLinear(5, **kind), lambda **kind: pylayers.Linear(8, 5, **kind)),
    "LazyLinear without bias": (
        lambda **kind: pylayers.LazyLinear(5, False, activation="gelu", **kind),
        lambda **kind: pylayers.Linear(8, 5, False, activation="gelu", **kind),
    ),
    "LazyRMSNorm": (lambda **kind: pylayers.LazyRMSNorm(1e-5, **kind), lambda **kind: pylayers.RMSNorm(8, 1e-5, **kind)),
    "LazyRMSNorm without weight": (
        lambda **kind: pylayers.LazyRMSNorm(None, False, **kind),
        lambda **kind: pylayers.RMSNorm(8, None, False, **kind),
    ),
    "LazyLayerNorm": (lambda **kind: pylayers.LazyLayerNorm(1e-3, **kind), lambda **kind: pylayers.LayerNorm(8, 1e-3, **kind)),
    "LazyLayerNorm without bias": (
        lambda **kind: pylayers.LazyLayerNorm(bias=False, **kind),
        lambda **kind: pylayers.LayerNorm(8, bias=False, **kind),
    ),
    "LazyGroupNorm": (lambda **kind: pylayers.LazyGroupNorm(2, 1e-3, **kind), lambda **kind: pylayers.GroupNorm(2, 8, 1e-3, **kind)),
    "LazyGroupNorm without bias": (
        lambda **kind: pylayers.LazyGroupNorm(2, bias=False, activation="silu", **kind),
        lambda **kind: pylayers.GroupNorm(2, 8, bias=False, activation="silu", **kind),
    ),
    "LazyGatedMLP": (lambda **kind: pylayers.LazyGatedMLP(6, **kind), lambda **kind: pylayers.GatedMLP(8, 6, **kind)),
    "LazyGatedMLP with sizes": (
        lambda **kind: pylayers.LazyGatedMLP(6, 3, True, "gelu", **kind),
        lambda **kind: pylayers.GatedMLP(8, 6, 3, True, "gelu", **kind),
    ),
    "LazyScaledLinear": (
        lambda **kind: pylayers.LazyScaledLinear(5, 0.5, **kind),
        lambda **kind: pylayers.ScaledLinear(8, 5, 0.5, **kind),
    ),
    "LazyFixedLinear": (lambda **kind: pylayers.LazyFixedLinear(5, **kind), lambda **kind: pylayers.FixedLinear(8, 5, **kind)),
    "LazyCenteredAffine": (lambda **kind: pylayers.LazyCenteredAffine(**kind), lambda **kind: pylayers.CenteredAffine(8, **kind)),
    "LazyTensorReduction": (
        lambda **kind: pylayers.LazyTensorReduction(5, symmetric=True, **kind),
        lambda **kind: pylayers.TensorReduction(8, 5, symmetric=True, **kind),
    ),
}
every_layer = pytest.mark.parametrize("make,plain", LAYERS.values(), ids=LAYERS.keys())


def lazy_net() -> nn.Sequential:
    return nn.Sequential(pylayers.LazyLinear(16, activation="relu"), pylayers.LazyRMSNorm(), pylayers.LazyLinear(3))


def plain_net() -> nn.Sequential:
    return nn.Sequential(pylayers.Linear(8, 16, activation="relu"), pylayers.RMSNorm(16), pylayers.Linear(16, 3))


def held(layer: nn.Module) -> list[torch.Tensor]:
    return [*layer.parameters(), *layer.buffers()]


def same_state(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@every_layer
def test_becomes_the_plain_layer(make, plain):
    layer = make()
    assert all(is_lazy(one) for one in held(layer))
    identities = [id(one) for one in held(layer)]
    torch.manual_seed(1)
    y = layer(normal(2, 8))
    torch.manual_seed(1)
    expected = plain()
    assert type(layer) is type(expected)
    assert repr(layer) == repr(expected)
    assert same_state(layer, expected)
    assert torch.equal(y, expected(normal(2, 8)))
    assert [id(one) for one in held(layer)] == identities
    assert all(type(one) in (nn.Parameter, torch.Tensor) and not one.__dict__ for one in held(layer))
    assert not layer._forward_pre_hooks and not layer._load_state_dict_pre_hooks
    ours, theirs = ({key for key in vars(one) if "cls" not in key} for one in (layer, expected))
    assert ours == theirs


def test_values_of_torch():
    for bias in (True, False):
        ours, theirs = pylayers.LazyLinear(5, bias), nn.LazyLinear(5, bias)
        for layer in (ours, theirs):
            torch.manual_seed(3)
            layer(normal(2, 8))
        assert same_state(ours, theirs)


def test_nothing_is_drawn_before_data():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    for make, _ in LAYERS.values():
        make()
    assert torch.equal(torch.get_rng_state(), before)


@every_layer
def test_initialised_once(make, plain):
    layer = make()
    layer(normal(2, 8))
    values = copy.deepcopy(layer.state_dict())
    layer(normal(2, 8))
    assert all(torch.equal(values[key], one) for key, one in layer.state_dict().items())


def test_initialised_in_the_order_of_first_use():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.second, self.first = pylayers.LazyLinear(3), pylayers.LazyLinear(4)

        def forward(self, x):
            return self.second(self.first(x)) + self.second(self.first(x))

    torch.manual_seed(0)
    net = Backwards()
    net(normal(2, 8))
    torch.manual_seed(0)
    first, second = nn.Linear(8, 4), nn.Linear(4, 3)
    assert torch.equal(net.first.weight, first.weight) and torch.equal(net.second.weight, second.weight)


@pytest.mark.parametrize(
    "use",
    [
        lambda weight: weight.shape,
        lambda weight: weight.ndim,
        lambda weight: weight.size(),
        lambda weight: weight + 1,
        lambda weight: weight.sum(),
        lambda weight: torch.stack([weight, weight]),
        lambda weight: nn.init.normal_(weight),
        lambda weight: pylayers.init.two_sided_uniform_(weight),
        lambda weight: weight.numel(),
        lambda weight: weight.share_memory_(),
    ],
)
def test_unusable_before_data(use):
    net = nn.Sequential(pylayers.LazyLinear(5))
    with pytest.raises((RuntimeError, ValueError)) as raised:
        use(net[0].weight)
    assert "LazyLinear.weight has no shape before data: call the net once, or pylayers.init.apply_init(" in str(raised.value)
    assert repr(net[0].weight) == "<LazyLinear.weight, without a shape>"


def test_initialisation_before_data_says_what_to_do():
    net = lazy_net()
    with pytest.raises(ValueError, match="LazyLinear.weight has no shape before data"):
        net.apply(lambda module: nn.init.normal_(module.weight) if isinstance(module, pylayers.Linear) else None)
    with pytest.raises(RuntimeError, match=r"apply_: 0 \(LazyLinear\) has no shapes before data: use apply_init\("):
        pylayers.init.apply_(net, lambda module: nn.init.normal_(module.weight), pylayers.Linear)


@pytest.mark.parametrize("optimiser", [torch.optim.SGD, torch.optim.AdamW])
def test_optimiser_built_before_data(optimiser):
    net, twin = lazy_net(), plain_net()
    x = normal(4, 8)
    early = optimiser(net.parameters(), lr=0.1)
    net(x)
    twin.load_state_dict(net.state_dict())
    late = optimiser(twin.parameters(), lr=0.1)
    for model, steps in ((net, early), (twin, late)):
        for _ in range(2):
            steps.zero_grad()
            model(x).square().sum().backward()
            steps.step()
    assert same_state(net, twin)


@every_layer
def test_full_state_into_a_lazy_layer(make, plain):
    torch.manual_seed(0)
    trained, layer = plain(), make()
    identities = [id(one) for one in held(layer)]
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert str(layer.load_state_dict(trained.state_dict())) == "<All keys matched successfully>"
    assert torch.equal(torch.get_rng_state(), before), "a loaded layer draws no initial values"
    assert [id(one) for one in held(layer)] == identities
    assert same_state(layer, trained)
    assert torch.equal(layer(normal(2, 8)), trained(normal(2, 8)))
    assert type(layer) is type(trained) and repr(layer) == repr(trained)
    assert same_state(layer, trained)


def test_full_state_into_a_lazy_net():
    trained, net = plain_net(), lazy_net()
    net.load_state_dict(trained.state_dict())
    assert [type(one) for one in net] == [type(one) for one in trained]
    assert net[0].in_features == 8 and net[1].normalized_shape == (16,)
    assert torch.equal(net(normal(2, 8)), trained(normal(2, 8)))
    other = lazy_net()
    other.load_state_dict(trained.state_dict(), assign=True)
    assert torch.equal(other(normal(2, 8)), trained(normal(2, 8)))


@every_layer
def test_lazy_state_into_a_lazy_layer(make, plain):
    layer = make()
    layer.load_state_dict(make().state_dict())
    assert all(is_lazy(one) for one in held(layer))
    assert layer(normal(2, 8)).shape[0] == 2 and type(layer) is type(plain())


def test_lazy_state_into_a_plain_net():
    with pytest.raises(RuntimeError, match="LazyLinear.weight has no shape before data"):
        plain_net().load_state_dict(lazy_net().state_dict())


def test_state_of_torch_loads_both_ways():
    for lazy in (nn.LazyLinear(5), nn.Linear(8, 5)):
        ours = pylayers.LazyLinear(5)
        ours.load_state_dict(lazy.state_dict())
        assert ours(normal(2, 8)).shape == (2, 5)
    theirs = nn.LazyLinear(5)
    theirs.load_state_dict(pylayers.LazyLinear(5).state_dict())
    assert theirs(normal(2, 8)).shape == (2, 5)


def test_part_of_a_state():
    """What is not in the state has its initial values."""
    layer, trained = pylayers.LazyLinear(5, bias_init=("constant", 7.0)), nn.Linear(8, 5)
    layer.load_state_dict({"weight": trained.weight}, strict=False)
    assert type(layer) is pylayers.Linear
    assert torch.equal(layer.weight, trained.weight) and (layer.bias == 7).all()


@pytest.mark.parametrize(
    "state,sentence",
    [
        ({"weight": torch.ones(7, 8), "bias": torch.ones(7)}, r"LazyLinear: weight must have shape \(5, 8\), got \(7, 8\)"),
        ({"weight": torch.ones(5, 8), "bias": torch.ones(7)}, r"LazyLinear: bias must have shape \(5,\), got \(7,\)"),
        ({"bias": torch.ones(5)}, r"LazyLinear: sizes cannot be taken from a state_dict with bias of shape \(5,\)"),
        ({"weight": torch.ones(())}, r"LazyLinear: sizes cannot be taken from a state_dict with weight of shape \(\)"),
    ],
)
def test_state_that_does_not_fit(state, sentence):
    net = nn.Sequential(pylayers.LazyLinear(5))
    with pytest.raises(RuntimeError, match="0: " + sentence):
        net.load_state_dict({f"0.{name}": one for name, one in state.items()})
    assert type(net[0]) is pylayers.LazyLinear and is_lazy(net[0].weight)
    assert net(normal(2, 3)).shape == (2, 5)


def _copies(module: nn.Module):
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    return {
        "deepcopy": copy.deepcopy(module),
        "pickle": pickle.loads(pickle.dumps(module)),
        "torch.save": torch.load(buffer, weights_only=False),
    }


@every_layer
def test_copies_of_a_lazy_layer(make, plain):
    for name, twin in _copies(make(dtype=torch.float64)).items():
        assert all(is_lazy(one) and one.dtype == torch.float64 for one in held(twin)), name
        assert all(repr(one).startswith("<Lazy") for one in held(twin)), name
        torch.manual_seed(2)
        y = twin(normal(2, 8, dtype=torch.float64))
        torch.manual_seed(2)
        expected = plain(dtype=torch.float64)
        assert type(twin) is type(expected) and same_state(twin, expected), name
        assert torch.equal(y, expected(normal(2, 8, dtype=torch.float64))), name


def test_copies_share_nothing():
    layer = pylayers.LazyLinear(5)
    for twin in _copies(layer).values():
        twin(normal(2, 8))
        assert type(layer) is pylayers.LazyLinear and is_lazy(layer.weight)


def test_state_dict_of_a_lazy_net_is_saved_without_pickled_code():
    buffer = io.BytesIO()
    torch.save(lazy_net().double().state_dict(), buffer)
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)
    assert state.keys() == plain_net().state_dict().keys()
    assert all(type(one) is UninitializedParameter and one.dtype == torch.float64 for one in state.values())
    net = lazy_net()
    net.load_state_dict(state)
    assert net(normal(2, 8)).shape == (2, 3)


@every_layer
def test_dtype_and_device_follow(make, plain):
    for layer in (make().double(), make().to(torch.float64), make(dtype=torch.float64)):
        assert all(is_lazy(one) for one in held(layer))
        y = layer(normal(2, 8, dtype=torch.float64))
        assert y.dtype == torch.float64 and {one.dtype for one in held(layer)} <= {torch.float64}
    meta = make(device="meta")
    assert meta(normal(2, 8).to("meta")).device.type == "meta"
    assert {one.device.type for one in held(meta)} <= {"meta"}
    assert type(meta) is type(plain())
    moved = make().to("meta")
    assert all(is_lazy(one) for one in held(moved))
    assert moved(normal(2, 8).to("meta")).device.type == "meta"


def test_buffers_of_a_lazy_layer():
    layer = pylayers.LazyFixedLinear(5)
    assert not list(layer.parameters()) and [name for name, _ in layer.named_buffers()] == ["weight", "bias"]
    with pytest.raises(ValueError, match="LazyFixedLinear.weight has no shape before data"):
        layer.weight + 1
    assert pylayers.LazyFixedLinear.from_weights(torch.ones(2, 3)).weight.shape == (2, 3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@every_layer
def test_moves_to_a_gpu(make, plain):
    layer = make().cuda()
    assert layer(normal(2, 8, device="cuda")).is_cuda and all(one.is_cuda for one in held(layer))


@pytest.mark.parametrize("name", ["AddRMSNorm", "AddLayerNorm"])
def test_norm_of_a_residual_stream(name):
    """Two inputs, the first of which gives the size; or a state_dict."""
    lazy, plain = getattr(pylayers, f"Lazy{name}"), getattr(pylayers, name)(8, 1e-3, residual_dtype=torch.float32)
    x, stream = normal(2, 8), normal(2, 8, seed=1)
    called, loaded = (lazy(1e-3, residual_dtype=torch.float32) for _ in range(2))
    called(x, stream)
    loaded.load_state_dict(plain.state_dict())
    for layer in (called, loaded):
        assert type(layer) is type(plain) and repr(layer) == repr(plain) and same_state(layer, plain)
        assert all(torch.equal(*pair) for pair in zip(layer(x, stream), plain(x, stream), strict=True))


def test_requires_grad_is_kept():
    layer = pylayers.LazyLinear(5)
    layer.requires_grad_(False)
    layer(normal(2, 8))
    assert not layer.weight.requires_grad and not layer.bias.requires_grad


def test_later_mismatch_names_layer_and_sizes():
    net = lazy_net()
    net(normal(2, 8))
    with pytest.raises(ValueError) as raised:
        net(normal(2, 7))
    assert "linear: the last dimension of input must be 8 (in_features of weight), got shape [2, 7]" in str(raised.value)
    norm = pylayers.LazyRMSNorm()
    norm(normal(2, 8))
    with pytest.raises(ValueError) as raised:
        norm(normal(2, 7))
    assert "rms_norm: input must end in the dimensions normalized_shape ([8]), got shape [2, 7]" in str(raised.value)


@every_layer
def test_input_without_dimensions(make, plain):
    layer = make()
    for bad, told in ((torch.tensor(1.0), r"\(\)"), ("text", "str")):
        with pytest.raises(ValueError, match=rf"{type(layer).__name__}: input must be a tensor .*, got {told}"):
            layer(bad)
    assert layer(normal(2, 8)) is not None


def test_beside_lazy_layers_of_torch():
    net = nn.Sequential(nn.LazyConv1d(4, 3), nn.LazyBatchNorm1d(), nn.Flatten(), pylayers.LazyLinear(6), nn.LazyLinear(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert net(normal(2, 3, 10)).shape == (2, 2)
    assert [type(one) for one in net] == [nn.Conv1d, nn.BatchNorm1d, nn.Flatten, pylayers.Linear, nn.Linear]


def test_keyword_input():
    layer = pylayers.LazyLinear(5)
    assert layer(input=normal(2, 8)).shape == (2, 5) and type(layer) is pylayers.Linear


def test_shared_layer_and_hooks():
    layer, seen = pylayers.LazyLinear(8), []
    layer.register_forward_hook(lambda module, args, y: seen.append(type(module)))
    nn.Sequential(layer, layer)(normal(2, 8))
    assert seen == [pylayers.Linear, pylayers.Linear]


def test_chosen_initialisers_wait_for_shapes():
    layer = pylayers.LazyLinear(5, weight_init="xavier_uniform", bias_init=("constant", 2.0))
    for twin in (layer, *_copies(layer).values()):
        assert "weight_init='xavier_uniform', bias_init=('constant', 2.0)" in repr(twin)
        torch.manual_seed(0)
        twin(normal(2, 8))
        torch.manual_seed(0)
        expected = nn.Linear(8, 5)
        nn.init.xavier_uniform_(expected.weight)
        assert torch.equal(twin.weight, expected.weight) and (twin.bias == 2).all()


def test_wrong_options_before_data():
    with pytest.raises(ValueError, match="LazyLinear: weight_init: there is no initialiser 'xavier'; did you mean"):
        pylayers.LazyLinear(5, weight_init="xavier")
    with pytest.raises(ValueError, match="activation must be one of"):
        pylayers.LazyLinear(5, activation="sin")
    with pytest.raises(ValueError, match="GatedMLP: activation must be one of 'silu', 'gelu', 'gelu_tanh', 'relu', got 'sin'"):
        pylayers.LazyGatedMLP(5, activation="sin")


def test_reset_parameters_before_data_waits():
    net = lazy_net()
    pylayers.init.reset_all(net)
    assert all(is_lazy(one) for one in net.parameters())


def test_compiles_after_data():
    net = lazy_net()
    x = normal(4, 8)
    expected = net(x)
    torch.testing.assert_close(torch.compile(net, fullgraph=True)(x), expected)


def test_compiled_before_data():
    torch.compiler.reset()
    net = nn.Sequential(pylayers.LazyLinear(4))
    compiled = torch.compile(net)
    assert compiled(normal(3, 8)).shape == (3, 4) and type(net[0]) is pylayers.Linear


def test_a_lazy_layer_of_ones_own():
    """As the docstring of pylayers.modules.lazy says."""
    from pylayers.modules.lazy import Lazy

    class LazyBilinear(Lazy, nn.Bilinear):
        cls_to_become = nn.Bilinear

        def __init__(self, out_features, bias=True, device=None, dtype=None):
            super().__init__(1, 1, out_features, bias, device, dtype)

        def shapes(self):
            return {"weight": (self.out_features, self.in1_features, self.in2_features), "bias": (self.out_features,)}

        def sizes_of_input(self, input1, input2):
            return {"in1_features": input1.shape[-1], "in2_features": input2.shape[-1]}

        def sizes_of_state(self, shapes):
            return {"in1_features": shapes["weight"][1], "in2_features": shapes["weight"][2]}

    layer = LazyBilinear(4)
    torch.manual_seed(0)
    y = layer(normal(2, 3), normal(2, 5))
    torch.manual_seed(0)
    expected = nn.Bilinear(3, 5, 4)
    assert type(layer) is nn.Bilinear and same_state(layer, expected)
    assert torch.equal(y, expected(normal(2, 3), normal(2, 5)))
    loaded = LazyBilinear(4)
    loaded.load_state_dict(expected.state_dict())
    assert type(loaded) is nn.Bilinear and repr(loaded) == repr(expected)
