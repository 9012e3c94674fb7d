import collections
import copy
import math
import os

import numpy
import pytest
import safetensors.torch
import torch
from catalogue import EXAMPLES
from harness import normal
from pylayers import io
from torch import nn

import pylayers


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file.safetensors"


def there_and_back(net: nn.Module, path, device=None) -> nn.Module:
    io.save_model(net, path)
    return io.load_model(path, device)


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(one.contiguous().flatten().view(torch.uint8), other.contiguous().flatten().view(torch.uint8))


def is_same_net(one: nn.Module, other: nn.Module) -> bool:
    """The same modules in the same order and mode, the same tensors, the same ties."""
    ours, theirs = ([(name, type(module), module.training) for name, module in net.named_modules()] for net in (one, other))
    tensors = [{**dict(net.named_parameters(remove_duplicate=False)), **dict(net.named_buffers())} for net in (one, other)]
    ties = [[len({id(a), id(b)}) for a in all_of.values() for b in all_of.values()] for all_of in tensors]
    assert ours == theirs and repr(one) == repr(other)
    assert list(tensors[0]) == list(tensors[1]) and ties[0] == ties[1]
    for a, b in zip(*(all_of.values() for all_of in tensors), strict=True):
        assert type(a) is type(b) and a.dtype == b.dtype and a.requires_grad == b.requires_grad
        assert nn.parameter.is_lazy(a) or (same_bits(a.detach(), b.detach()) and a.stride() == b.stride())
    return True


# Users' own classes.


@io.register
class Parallel(nn.Module):
    def __init__(self, *branches, scale=1.0):
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.scale = scale
        self.first = self.branches[0]  # a second name of the same module

    def forward(self, x):
        return sum(branch(x) for branch in self.branches) * self.scale


@io.register(name="tests.Tower")
class Tower(nn.Module):
    """A constructor that makes its own blocks, a tie, and a buffer that is not saved."""

    def __init__(self, depth, width, activation=torch.relu, norm=pylayers.RMSNorm, bias: bool = True):
        super().__init__()
        self.depth, self.width, self.activation, self.norm = depth, width, activation, norm
        self.blocks = nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(depth)))
        self.out = norm(width)
        self.head = nn.Linear(width, width, bias=False)
        self.head.weight = self.blocks[0].weight
        self.bias = nn.Parameter(torch.randn(width)) if bias else None
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("table", torch.arange(width), persistent=False)

    def forward(self, x):
        y = self.head(self.out(self.activation(self.blocks(x)))) + self.table
        return y if self.bias is None else y + self.bias


@io.register
class Configured(nn.Module):
    """Keeps nothing; carries extra state."""

    def __init__(self, sizes, kernel):
        super().__init__()
        self.inner = nn.Linear(*sizes)
        self.register_buffer("weights", kernel)
        self.calls = 0

    def config(self):
        return {"sizes": (self.inner.in_features, self.inner.out_features), "kernel": self.weights}

    def get_extra_state(self):
        return {"calls": self.calls}

    def set_extra_state(self, state):
        self.calls = state["calls"]


def weight(*shape):
    return nn.Parameter(torch.randn(shape))


NETS = {
    "mlp": lambda: nn.Sequential(nn.Flatten(), pylayers.Linear(6, 4, activation="relu"), nn.Dropout(0.25), nn.Linear(4, 2)),
    "named": lambda: nn.Sequential(collections.OrderedDict(first=nn.Linear(2, 3), act=nn.GELU("tanh"))),
    "containers": lambda: nn.ModuleDict({"a": nn.ModuleList([nn.Linear(1, 1), nn.Identity(3, x=1)]), "b": nn.Sequential()}),
    "embeddings": lambda: nn.Sequential(nn.Embedding(5, 2, padding_idx=1), nn.EmbeddingBag(3, 2, mode="sum")),
    "norms": lambda: nn.Sequential(nn.BatchNorm1d(3, affine=False), nn.LayerNorm((2, 3), bias=False), nn.GroupNorm(2, 4)),
    "conv": lambda: nn.Sequential(nn.Conv2d(1, 2, 3, padding="same", bias=False), nn.MaxPool2d(2), nn.ConvTranspose2d(2, 2, 3)),
    "recurrent": lambda: nn.ModuleList([nn.LSTM(3, 4, 2, proj_size=2), nn.GRU(3, 4, bidirectional=True)]),
    "more recurrent": lambda: nn.ModuleList([nn.RNN(2, 2, nonlinearity="relu"), nn.LSTMCell(2, 3, bias=False)]),
    "attention": lambda: nn.MultiheadAttention(4, 2, kdim=3, add_bias_kv=True),
    "transformer": lambda: nn.TransformerEncoderLayer(4, 2, 8, activation=nn.functional.gelu),
    "parameters": lambda: nn.ModuleList([nn.ParameterList([weight(2)]), nn.ParameterDict({"a": weight(3)})]),
    "activations": lambda: nn.Sequential(nn.ReLU(True), nn.PReLU(3), nn.Hardtanh(-2, 3), nn.Softmax(-1), nn.Tanh()),
    "lazy": lambda: nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.LazyLinear(3, bias=False, dtype=torch.bfloat16)),
    "parallel": lambda: Parallel(nn.Linear(3, 3), Parallel(pylayers.RMSNorm(3), nn.Tanh()), scale=0.5),
    "tower": lambda: Tower(3, 4, activation=torch.tanh, norm=nn.LayerNorm),
    "tower without bias": lambda: Tower(1, 4, bias=False),
    "configured": lambda: Configured((3, 2), torch.randn(3)),
    "empty": lambda: nn.Sequential(),
}


@pytest.mark.parametrize("name", NETS)
def test_save_model(name, path):
    torch.manual_seed(1)
    net = NETS[name]()
    before = torch.get_rng_state()
    assert is_same_net(there_and_back(net, path), net)
    assert torch.equal(torch.get_rng_state(), before)
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("name", EXAMPLES)
def test_save_model_of_this_package(name, path):
    net = EXAMPLES[name].make()
    assert is_same_net(there_and_back(net, path), net)


def test_save_model_keeps_mode_gradients_and_strides(path):
    net = NETS["conv"]().to(memory_format=torch.channels_last)
    net[0].weight.requires_grad_(False)
    net[1].eval()
    tower = Tower(2, 3).to(torch.bfloat16).requires_grad_(False)
    assert is_same_net(there_and_back(tower, path), tower)
    assert net[2].weight.stride() != torch.empty(net[2].weight.shape).stride()
    assert is_same_net(there_and_back(net, path), net)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float8_e4m3fn, torch.complex128], ids=str)
def test_save_model_dtypes(dtype, path):
    net = nn.Sequential(nn.Linear(3, 2), Parallel(nn.Linear(2, 2)))
    for parameter in net.parameters():
        parameter.data = torch.randn(parameter.shape).to(dtype)
    assert is_same_net(there_and_back(net, path), net)


def test_save_model_ties(path):
    """One object under two names, one module under two names, two objects over one memory."""
    shared = nn.Linear(4, 4)
    net = nn.Sequential(nn.Embedding(4, 4), shared, nn.ReLU(), shared, nn.Linear(4, 4, bias=False), nn.Linear(4, 2, bias=False))
    net[4].weight = net[0].weight
    net[5].weight = nn.Parameter(net[0].weight.detach()[1:3])  # a view of it
    again = there_and_back(net, path)
    assert is_same_net(again, net)
    assert again[1] is again[3] and again[0].weight is again[4].weight
    with torch.no_grad():
        again[0].weight.fill_(7)
    assert again[5].weight.eq(7).all() and again[5].weight is not again[0].weight
    size = sum(parameter.numel() * 4 for parameter in net[:4].parameters())
    assert sum(one.numel() * 4 for one in safetensors.torch.load_file(path).values()) == size
    copied = copy.deepcopy(again)
    assert copied[0].weight is copied[4].weight


def test_save_model_after_surgery(path):
    """Children that were exchanged, taken away or added after the constructor ran."""
    net = Tower(3, 4)
    net.head = nn.Sequential(nn.Linear(4, 5), nn.Tanh())
    net.out = None
    del net.blocks[1]
    net.extra = nn.Linear(1, 1)
    net.register_buffer("mean", torch.ones(2))
    net.blocks[0].weight.data *= 2
    blocks, bias = net.blocks, net.extra.weight
    del net.blocks, net.extra.weight
    net.blocks, net.extra.weight = blocks, bias  # behind the others now, also in parameters()
    assert is_same_net(there_and_back(net, path), net)


def test_save_model_continues_training(path):
    torch.manual_seed(0)
    net = Tower(2, 4)
    again = there_and_back(net, path)
    x = normal(5, 4)
    for one in (net, again):
        optimizer = torch.optim.Adam(one.parameters())
        one(x).square().sum().backward()
        optimizer.step()
    assert torch.equal(net(x), again(x))


def test_load_model_recurrent_runs(path):
    """torch's recurrent layers keep their parameters in a second list."""
    net, x = nn.LSTM(3, 4, 2), normal(5, 2, 3)
    again = there_and_back(net, path)
    assert torch.equal(again(x)[0], net(x)[0])
    with torch.no_grad():
        again.weight_ih_l0.zero_()
    assert not torch.equal(again(x)[0], net(x)[0])


class Cached(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.arange(3), persistent=False)


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.arange(3)


@pytest.mark.parametrize("cls", [Cached, Plain])
def test_load_model_of_ours_with_a_table(cls, path, monkeypatch):
    """What is not in the file is made by the constructor also in classes that are built on meta."""
    io.register(cls)
    monkeypatch.setattr(io.registry, "_built_in", {*io.registry._built_in, cls})
    assert there_and_back(nn.Sequential(cls()), path)[0].table.tolist() == [0, 1, 2]


def test_load_model_lazy_then_data(path):
    net = NETS["lazy"]()
    again = there_and_back(net, path)
    torch.manual_seed(0)
    again[:2](normal(1, 3, 5, 5))
    torch.manual_seed(0)
    net[:2](normal(1, 3, 5, 5))
    assert is_same_net(again, net) and type(again[0]) is nn.Conv2d
    assert is_same_net(there_and_back(again, path), net)


def test_load_model_device(path):
    net = Tower(2, 4)
    io.save_model(net, path)
    for load in (lambda: io.load_model(path, "meta"), lambda: with_default("meta", lambda: io.load_model(path))):
        assert {one.device.type for one in (*load().parameters(), *load().buffers())} == {"meta"}
    if torch.cuda.is_available():
        again = io.load_model(path, "cuda")
        assert is_same_net(again.cpu(), net)


def with_default(device, call):
    with torch.device(device):
        return call()


def test_files_are_safetensors(path):
    net = NETS["mlp"]()
    io.save_model(net, path)
    state = safetensors.torch.load_file(path)
    assert set(state) == set(net.state_dict()) and all(torch.equal(state[name], one) for name, one in net.state_dict().items())
    with safetensors.safe_open(path, "pt") as file:
        assert set(file.metadata()) == {"format", "pylayers", "pylayers.checksum"}
    first = path.read_bytes()
    io.save_model(net, path)
    assert path.read_bytes() == first  # the same net, the same bytes


def test_constructors_that_cannot_run_on_meta(path):
    @io.register
    class Rates(nn.Module):
        def __init__(self, rates):
            super().__init__()
            self.rates = rates
            self.inner = nn.Linear(2, int(torch.ones(3).sum()))
            self.plain = torch.tensor(rates).sum().item()

    net = Rates([0.5, 0.25])
    again = there_and_back(nn.Sequential(net), path)
    assert is_same_net(again, nn.Sequential(net)) and again[0].plain == 0.75


class Unregistered(nn.Module):
    pass


class Forgetful(nn.Module):
    def __init__(self, width, *, depth=1):
        super().__init__()
        self.width = width


class Wider(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.width = width * 2
        self.inner = nn.Linear(width, 1)


class Hiding(nn.Module):
    def __init__(self, branches):
        super().__init__()
        self.branches = branches


class Odd(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value


for one in (Forgetful, Wider, Hiding, Odd):
    io.register(one)


def resized():
    net = nn.Embedding(4, 2)
    net.weight = nn.Parameter(torch.ones(5, 2))
    return net


def normed():
    return nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))


def endless():
    net = nn.Sequential()
    net.add_module("self", net)
    return net


@pytest.mark.parametrize(
    "make,error,sentence",
    [
        (lambda: nn.Sequential(nn.ReLU(), Unregistered()), ValueError, "1 is a test_io.Unregistered, a class that is not"),
        (normed, ValueError, "ParametrizedLinear, a class that is not registered"),
        (lambda: Forgetful(3), ValueError, "the argument depth of Forgetful is not found: keep it as self.depth, give"),
        (lambda: Wider(3), ValueError, "loaded again: Wider does not keep its constructor's arguments as they were given"),
        (lambda: Hiding([nn.Linear(1, 1)]), ValueError, "an argument holds a Linear that is no submodule"),
        (lambda: Odd({1, 2}), TypeError, "argument value of the net (Odd) is a builtins.set; what can be saved: None, bool"),
        (lambda: Odd(lambda x: x), TypeError, "argument value of the net (Odd) is a builtins.function"),
        (resized, ValueError, "Embedding makes 'weight' of shape [4, 2], but that of the net has shape [5, 2]"),
        (endless, ValueError, "the net could not be loaded again: a module contains itself"),
        (lambda: nn.Linear(2, 2, device="meta"), ValueError, "weight is on the meta device and has no values"),
        (lambda: [nn.Linear(2, 2)], TypeError, "net must be a Module, got list"),
    ],
)
def test_save_model_refuses(make, error, sentence, path):
    path.write_bytes(b"old")
    with pytest.raises(error) as raised:
        io.save_model(make(), path)
    assert sentence in str(raised.value) and str(raised.value).startswith("save_model: ")
    assert path.read_bytes() == b"old" and os.listdir(path.parent) == [path.name]


def test_load_model_only_asks_the_registry(path):
    @io.register(name="Passing")
    class Passing(nn.Module):
        def __init__(self):
            super().__init__()

    io.save_model(Passing(), path)
    assert type(io.load_model(path)) is Passing
    io.register(Passing, name="Passed")  # under another name now
    with pytest.raises(ValueError, match="names the class 'Passing', which is not registered here"):
        io.load_model(path)


def test_register_names():
    class Passing(nn.Module):
        pass

    assert io.register(Passing, name="a.name") is Passing
    again = type("Passing", (nn.Module,), {"__qualname__": Passing.__qualname__, "__module__": Passing.__module__})
    assert io.register(again, name="a.name") is again  # a notebook's cell that ran twice
    with pytest.raises(ValueError, match=r"the name 'a.name' belongs to test_io.*Passing: give another one"):
        io.register(Unregistered, name="a.name")
    with pytest.raises(ValueError, match="the name 'torch.nn.Linear' belongs to"):
        io.register(Unregistered, name="torch.nn.Linear")
    with pytest.raises(TypeError, match="cls must be a class or a function, got Unregistered"):
        io.register(Unregistered())


def test_register_config_function(path):
    class Late(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.inner = nn.Linear(width, width)

    io.register(Late, config=lambda module: {"width": module.inner.in_features})
    net = Late(3)
    assert is_same_net(there_and_back(net, path), net)
    io.register(Late, config=lambda module: [3])
    with pytest.raises(TypeError, match="the config of Late must be a dict"):
        io.save_model(Late(3), path)
