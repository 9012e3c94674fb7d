import copy
import functools
import pickle
import re

import pytest
import torch
from harness import normal
from pylayers import init
from torch import nn
from torch.nn.parameter import is_lazy

import pylayers

ARGUMENTS = {"constant_": (3.0,), "sparse_": (0.5,), "normal_": (0.0, 0.02), "uniform_": (-0.5, 0.5), "two_sided_uniform_": (1, 2)}
FOR_MATRICES = [name for name in init.INITIALISERS if name != "dirac_"]  # that one takes three dimensions and more
FOR_VECTORS = ["constant_", "ones_", "zeros_", "normal_", "uniform_", "trunc_normal_", "two_sided_uniform_"]
# Each with the sizes (in, out) of the torch.nn.Linear that it is made of.
LAYERS = {
    "Linear": (lambda **chosen: pylayers.Linear(6, 4, **chosen), [(6, 4)]),
    "LazyLinear": (lambda **chosen: after_data(pylayers.LazyLinear(4, **chosen)), [(6, 4)]),
    "GatedMLP": (lambda **chosen: pylayers.GatedMLP(6, 5, bias=True, **chosen), [(6, 5), (6, 5), (5, 6)]),
    "LazyGatedMLP": (lambda **chosen: after_data(pylayers.LazyGatedMLP(5, bias=True, **chosen)), [(6, 5), (6, 5), (5, 6)]),
}
every_layer = pytest.mark.parametrize("make,sizes", LAYERS.values(), ids=LAYERS.keys())


def after_data(layer):
    layer(normal(2, 6))
    return layer


def by_hand(sizes, weight=lambda w: None, bias=lambda b: None):
    """The parameters of torch.nn.Linear layers that are initialised after they were made."""
    parameters = []
    for size in sizes:
        layer = nn.Linear(*size)
        weight(layer.weight)
        bias(layer.bias)
        parameters += [layer.weight, layer.bias]
    return parameters


def equal(parameters, others):
    return all(torch.equal(one, other) for one, other in zip(parameters, others, strict=True))


def seeded(function, *args, **kwargs):
    torch.manual_seed(7)
    return function(*args, **kwargs)


@every_layer
@pytest.mark.parametrize("name", FOR_MATRICES)
def test_every_initialiser(make, sizes, name):
    function, arguments = init.INITIALISERS[name], ARGUMENTS.get(name, ())
    expected = seeded(by_hand, sizes, lambda w: function(w, *arguments))
    for chosen in (
        (name, *arguments),
        (name.removesuffix("_"), *arguments),
        lambda w: function(w, *arguments),
        *([] if arguments else [name, name.removesuffix("_"), function]),
    ):
        layer = seeded(make, weight_init=chosen)
        assert equal(layer.parameters(), expected)
        seeded(layer.reset_parameters)
        assert equal(layer.parameters(), expected)


@every_layer
@pytest.mark.parametrize("name", FOR_VECTORS)
def test_every_initialiser_of_a_bias(make, sizes, name):
    function, arguments = init.INITIALISERS[name], ARGUMENTS.get(name, ())
    expected = seeded(by_hand, sizes, nn.init.ones_, lambda b: function(b, *arguments))
    layer = seeded(make, weight_init="ones", bias_init=(name, *arguments))
    assert equal(layer.parameters(), expected)


@every_layer
def test_defaults_are_those_of_torch(make, sizes):
    assert equal(seeded(make).parameters(), seeded(by_hand, sizes))


def after_two(layer):
    layer(normal(2, 6), normal(2, 6))
    return layer


NORMS = {
    "RMSNorm": lambda **chosen: pylayers.RMSNorm(6, **chosen),
    "LazyRMSNorm": lambda **chosen: after_data(pylayers.LazyRMSNorm(**chosen)),
    "AddRMSNorm": lambda **chosen: pylayers.AddRMSNorm(6, **chosen),
    "LazyAddRMSNorm": lambda **chosen: after_two(pylayers.LazyAddRMSNorm(**chosen)),
    "LayerNorm": lambda **chosen: pylayers.LayerNorm(6, **chosen),
    "LazyLayerNorm": lambda **chosen: after_data(pylayers.LazyLayerNorm(**chosen)),
    "GroupNorm": lambda **chosen: pylayers.GroupNorm(2, 6, **chosen),
    "LazyGroupNorm": lambda **chosen: after_data(pylayers.LazyGroupNorm(2, **chosen)),
    "AddLayerNorm": lambda **chosen: pylayers.AddLayerNorm(6, **chosen),
    "LazyAddLayerNorm": lambda **chosen: after_two(pylayers.LazyAddLayerNorm(**chosen)),
}


@pytest.mark.parametrize("layer", NORMS)
@pytest.mark.parametrize("name", FOR_VECTORS)
def test_every_initialiser_of_a_norm(name, layer):
    function, arguments, biased = init.INITIALISERS[name], ARGUMENTS.get(name, ()), "LayerNorm" in layer or "GroupNorm" in layer
    for option in ("weight", "bias") if biased else ("weight",):
        expected = seeded(function, torch.empty(6), *arguments)
        made = seeded(NORMS[layer], **{f"{option}_init": (name, *arguments)})
        assert torch.equal(getattr(made, option), expected)
        seeded(made.reset_parameters)
        assert torch.equal(getattr(made, option), expected)
        assert f"{option}_init=" in repr(made)


def test_all_of_torch_is_there():
    """No initialiser of torch.nn.init is missing: each of its functions that ends in an underscore fills a tensor of some shape."""
    expected = {name for name in dir(nn.init) if re.fullmatch(r"[a-z]\w*_", name)}
    assert expected | {"two_sided_uniform_"} == init.INITIALISERS.keys()
    conv = init.initialise_(torch.empty(3, 3, 3), "dirac")
    assert torch.equal(conv, nn.init.dirac_(torch.empty(3, 3, 3)))


@pytest.mark.parametrize(
    "chosen,shown",
    [
        ("xavier_uniform", "'xavier_uniform'"),
        (("constant", 3.0), "('constant', 3.0)"),
        (nn.init.ones_, "ones_"),
        (functools.partial(nn.init.normal_, std=0.02), "normal_(std=0.02)"),
        (init.two_sided_uniform_, "two_sided_uniform_"),
    ],
)
def test_shown_and_kept(chosen, shown):
    layer = pylayers.Linear(6, 4, weight_init=chosen)
    assert repr(layer) == f"Linear(in_features=6, out_features=4, bias=True, weight_init={shown})"
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert repr(twin) == repr(layer)
        seeded(twin.reset_parameters)
        seeded(layer.reset_parameters)
        assert equal(twin.parameters(), layer.parameters())
    assert layer.state_dict().keys() == nn.Linear(6, 4).state_dict().keys()
    assert repr(pylayers.RMSNorm(3, weight_init="ones")).endswith("elementwise_affine=True, weight_init='ones')")
    assert "weight_init='ones'" in repr(pylayers.GatedMLP(3, 4, weight_init="ones").down_proj)


@pytest.mark.parametrize(
    "options,error,sentence",
    [
        ({"weight_init": "xavier"}, ValueError, "there is no initialiser 'xavier'; did you mean 'xavier_normal' or 'xavier_uniform'?"),
        ({"weight_init": "kaiming_norm_"}, ValueError, "'kaiming_norm_'; did you mean 'kaiming_normal'"),
        ({"bias_init": ("qqq", 1)}, ValueError, "Linear: bias_init: there is no initialiser 'qqq'; there are uniform, normal,"),
        ({"weight_init": "constant"}, TypeError, "constant cannot take the arguments (): missing a required argument: 'val'"),
        ({"weight_init": ("zeros", 1.0)}, TypeError, "zeros cannot take the arguments (1.0,): too many positional arguments"),
        ({"weight_init": 3}, TypeError, "Linear: weight_init must be the name of an initialiser, a tuple of a name"),
        ({"weight_init": ()}, TypeError, "Linear: weight_init must be the name of an initialiser"),
        ({"bias_init": "xavier_normal"}, ValueError, "Linear: bias_init='xavier_normal' cannot fill shape (4,): Fan in and fan out"),
        ({"weight_init": torch.zeros_like}, ValueError, "weight_init=zeros_like returned another tensor and did not write to"),
        ({"bias": False, "bias_init": "zeros"}, ValueError, "Linear: bias_init was given, but there is no bias"),
    ],
)
def test_bad_choices(options, error, sentence):
    with pytest.raises(error) as raised:
        pylayers.Linear(6, 4, **options)
    assert sentence in str(raised.value) and "\n" not in str(raised.value)


def test_a_function_may_write_in_any_way():
    assert (pylayers.Linear(3, 2, weight_init=lambda w: w.data.fill_(4)).weight == 4).all()
    assert (pylayers.Linear(3, 2, weight_init=lambda w: w.fill_(4).sum()).weight == 4).all()

    def rows(w):
        w[0], w[1] = 1, 2

    assert pylayers.Linear(3, 2, weight_init=rows).weight.tolist() == [[1, 1, 1], [2, 2, 2]]


def test_initialised_keeps_the_module_contract_on_meta():
    layer = pylayers.Linear(6, 4, device="meta", weight_init="two_sided_uniform", bias_init=("constant", 1.0))
    layer.to_empty(device="cpu").reset_parameters()
    assert (layer.bias == 1).all() and ((layer.weight == 0) | (layer.weight.abs() >= 5)).all()


def test_a_layer_of_ones_own():
    """As the docstring of Initialised says."""
    from pylayers.modules.initialised import Initialised

    class Scale(Initialised, nn.Module):
        def __init__(self, dim, *, weight_init=None):
            super().__init__()
            self.weight = nn.Parameter(torch.empty(dim))
            self.initialise(weight=weight_init)

        def reset_parameters(self):
            nn.init.ones_(self.weight)
            self.apply_initialisers()

    assert Scale(2).weight.tolist() == [1, 1] and Scale(2, weight_init=("constant", 5.0)).weight.tolist() == [5, 5]


class Scaled(pylayers.Linear):
    """A subclass, as people write them."""


def nested():
    shared = pylayers.Linear(4, 4)
    return nn.Sequential(pylayers.Linear(6, 4), nn.Sequential(Scaled(4, 4), shared), shared, nn.Linear(4, 4), nn.LayerNorm(4))


def test_apply_reaches_subclasses_once():
    net, called = nested(), []
    names = init.apply_(net, called.append, pylayers.Linear)
    assert names == ["0", "1.0", "1.1"] and called == [net[0], net[1][0], net[1][1]]
    assert init.apply_(net, called.append, (pylayers.Linear, nn.Linear)) == ["0", "1.0", "1.1", "3"]
    order = []
    init.apply_(net, order.append, nn.Module)
    assert order[-1] is net and order.index(net[1][0]) < order.index(net[1])


def test_apply_may_write_directly():
    net = nested()

    def halve(module):
        module.weight *= module.weight.abs() >= 0.1  # as in textbooks, without .data

    init.apply_(net, halve, pylayers.Linear)
    assert (net[0].weight == 0).any() and net[0].weight.requires_grad and net[0].weight.is_leaf
    with pytest.raises(ValueError, match="apply_: no module of Sequential is an instance of Conv2d, Bilinear"):
        init.apply_(net, halve, (nn.Conv2d, nn.Bilinear))


def test_reset_all_is_as_new():
    net = seeded(nested)
    expected = copy.deepcopy(net.state_dict())
    identities = [id(one) for one in net.parameters()]
    for one in net.parameters():
        one.data.zero_()
    net[4].weight.data.fill_(9)
    torch.manual_seed(3)
    assert init.reset_all(net) == []
    assert [id(one) for one in net.parameters()] == identities
    assert (net[4].weight == 1).all() and all((one != 0).any() for name, one in net.named_parameters() if name.endswith("weight"))
    leaves = nn.Sequential(nn.Linear(3, 4), pylayers.Linear(4, 5, weight_init="orthogonal"), nn.BatchNorm1d(5))
    leaves(normal(4, 3))
    seeded(init.reset_all, leaves)
    fresh = seeded(lambda: nn.Sequential(nn.Linear(3, 4), pylayers.Linear(4, 5, weight_init="orthogonal"), nn.BatchNorm1d(5)))
    assert all(torch.equal(one, fresh.state_dict()[key]) for key, one in leaves.state_dict().items())
    assert expected.keys() == net.state_dict().keys()


class Owner(nn.Module):
    """Has a parameter of its own, and says how its part is to be reset."""

    def __init__(self, resets):
        super().__init__()
        self.scale = nn.Parameter(torch.full((2,), 5.0))
        self.part = nn.Linear(2, 2)
        if resets:
            self.reset_parameters = self.reset

    def reset(self):
        self.scale = nn.Parameter(torch.ones(2))  # another object
        with torch.no_grad():
            self.part.weight.fill_(3)


def test_reset_all_tells_what_it_could_not_reset():
    net = nn.Sequential(Owner(resets=False), pylayers.Linear(2, 2))
    assert init.reset_all(net) == ["0"] and (net[0].scale == 5).all()
    assert init.reset_all(Owner(resets=False)) == [""]
    assert init.reset_all(nn.Sequential(nn.ReLU())) == []


def test_reset_all_keeps_parameters_and_the_last_word_of_blocks():
    block = Owner(resets=True)
    identities = [id(one) for one in block.parameters()]
    assert init.reset_all(block) == []
    assert [id(one) for one in block.parameters()] == identities
    assert (block.scale == 1).all() and (block.part.weight == 3).all()


def test_reset_all_on_meta():
    net = nested().to("meta")
    identities = [id(one) for one in net.parameters()]
    assert init.reset_all(net) == []
    assert [id(one) for one in net.parameters()] == identities and all(one.is_meta for one in net.parameters())


def lazy_net():
    return nn.Sequential(
        pylayers.LazyLinear(16, activation="relu"), nn.LazyBatchNorm1d(), nn.Dropout(0.5), pylayers.LazyRMSNorm(), nn.LazyLinear(3)
    )


def plain_net():
    return nn.Sequential(
        pylayers.Linear(8, 16, activation="relu"), nn.BatchNorm1d(16), nn.Dropout(0.5), pylayers.RMSNorm(16), nn.Linear(16, 3)
    )


@pytest.mark.parametrize(
    "chosen",
    ["xavier_uniform", ("normal", 0.0, 0.1), nn.init.xavier_normal_, functools.partial(nn.init.normal_, std=0.3)],
    ids=["name", "arguments", "function", "partial"],
)
def test_apply_init_of_all_weights(chosen):
    net, expected = lazy_net(), plain_net()
    torch.manual_seed(2)
    assert init.apply_init(net, normal(4, 8), chosen) is net
    torch.manual_seed(2)
    for index in (0, 4):
        init.initialise_(expected[index].weight, chosen)
        assert torch.equal(net[index].weight, expected[index].weight)
    assert (net[1].weight == 1).all() and (net[3].weight == 1).all(), "norms keep theirs"


def test_apply_init_of_modules():
    seen = []

    def by_type(module):
        seen.append(type(module))
        if type(module) in (nn.Linear, pylayers.Linear):  # a lazy layer is exactly the plain one by now
            nn.init.constant_(module.weight, 0.5)
            module.bias -= module.bias

    net = init.apply_init(lazy_net(), normal(4, 8), by_type)
    assert (net[0].weight == 0.5).all() and (net[4].weight == 0.5).all() and (net[4].bias == 0).all()
    assert seen == [pylayers.Linear, nn.BatchNorm1d, nn.Dropout, pylayers.RMSNorm, nn.Linear, nn.Sequential]


def test_apply_init_leaves_everything_else_as_it_was():
    net = nn.Sequential(nn.BatchNorm1d(8), lazy_net(), nn.Dropout(0.5))
    net[0](3 * normal(4, 8))
    net[2].eval()
    net[1][1].eval()
    modes = [module.training for module in net.modules()]
    statistics = copy.deepcopy(net[0].state_dict())
    buffer = net[0].running_mean
    torch.manual_seed(6)
    before = torch.get_rng_state()
    init.apply_init(net, normal(4, 8), "ones")
    assert torch.equal(torch.get_rng_state(), before)
    assert [module.training for module in net.modules()] == modes
    assert net[0].running_mean is buffer
    assert all(torch.equal(one, statistics[key]) for key, one in net[0].state_dict().items())
    fresh = nn.BatchNorm1d(16)
    assert all(torch.equal(one, fresh.state_dict()[key]) for key, one in net[1][1].state_dict().items())
    assert all(one.grad is None for one in net.parameters())


class OnlyInTraining(nn.Module):
    """A head that only training uses, and a buffer that counts calls."""

    def __init__(self):
        super().__init__()
        self.body, self.head = pylayers.LazyLinear(4), nn.Sequential(pylayers.LazyLinear(2), nn.LazyBatchNorm1d())
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x, *, scale=1.0):
        self.calls = self.calls + 1
        x = self.body(x) * scale
        return self.head(x) if self.training else x


def test_apply_init_reaches_what_only_training_uses():
    net = OnlyInTraining()
    calls = net.calls
    init.apply_init(net, {"x": normal(4, 8), "scale": 2.0}, "ones")
    assert (net.head[0].weight == 1).all() and net.training
    assert net.calls is calls and calls == 0
    assert (net.head[1].running_mean == 0).all() and net.head[1].num_batches_tracked == 0
    with pytest.raises(RuntimeError, match=r"example_input does not reach head.0 \(LazyLinear\), head.1 \(LazyBatchNorm1d\), whose"):
        init.apply_init(OnlyInTraining().eval(), (normal(4, 8),), "ones")


def test_apply_init_puts_back_after_an_error():
    net = nn.Sequential(pylayers.LazyLinear(4), nn.Dropout(), nn.Linear(5, 2))
    torch.manual_seed(6)
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError):
        init.apply_init(net, normal(4, 8), "ones")
    assert net[1].training and torch.equal(torch.get_rng_state(), before)


def test_apply_init_does_not_run_a_net_that_has_shapes():
    net = plain_net()
    init.apply_init(net, None, ("constant", 2.0))
    assert (net[0].weight == 2).all() and net[1].num_batches_tracked == 0


def test_apply_init_on_meta():
    net = nn.Sequential(pylayers.LazyLinear(4, device="meta"))
    init.apply_init(net, normal(2, 8).to("meta"), "xavier_uniform")
    assert net[0].weight.is_meta and net[0].weight.shape == (4, 8)


@pytest.mark.parametrize(
    "chosen,error,sentence",
    [
        ("xavier", ValueError, "apply_init: init: there is no initialiser 'xavier'; did you mean"),
        (3, TypeError, "apply_init: init must be the name of an initialiser"),
    ],
)
def test_apply_init_bad_choices(chosen, error, sentence):
    net = lazy_net()
    with pytest.raises(error, match=sentence):
        init.apply_init(net, normal(4, 8), chosen)
    assert is_lazy(net[0].weight), "the choice is judged before the net is run"
