"""`convert`: which modules it takes, what it refuses, what it says."""

import warnings

import pytest
import torch
from torch import nn

import pylayers

pytest.importorskip("transformers")
timm = pytest.importorskip("timm")
from pylayers.benchmarks.models import TINY, made  # noqa: E402

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("one_thread")]


# ---- what is chosen


def net():
    return nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.LayerNorm(16), nn.Sequential(nn.RMSNorm(16), nn.Linear(16, 4)), nn.Softmax(-1))


def replaced(report):
    return {entry.name for entry in report.replaced}


def test_include_and_exclude():
    assert replaced(pylayers.convert(net())) == {"0", "2", "3.0", "3.1", "4"}
    assert replaced(pylayers.convert(net(), include="3.*")) == {"3.0", "3.1"}
    assert replaced(pylayers.convert(net(), exclude=nn.Linear)) == {"2", "3.0", "4"}
    assert replaced(pylayers.convert(net(), include=[nn.Linear, "2"], exclude=lambda name, module: name == "0")) == {"2", "3.1"}


def test_a_module_by_two_names_is_one():
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    assert len(pylayers.convert(model).replaced) == 1 and model[0] is model[2]


def test_subclasses_with_a_forward_of_their_own():
    class Scaled(nn.Linear):
        def forward(self, input):
            return 2 * super().forward(input)

    class Named(nn.Linear):
        pass

    model = nn.Sequential(Named(4, 4), Scaled(4, 4))
    x = torch.randn(3, 4)
    expected = model(x)
    report = pylayers.convert(model)
    assert replaced(report) == {"0"} and "differs" in report.kept[0].reason
    torch.testing.assert_close(model(x), expected)


class AlmostNorm(nn.Module):
    """A norm of the mean of magnitudes."""

    def __init__(self):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(8)), 1e-6

    def forward(self, x):
        return self.weight * x / (x.abs().mean(-1, keepdim=True) + self.eps)


def test_what_computes_something_else_is_left_alone():
    model = nn.Sequential(AlmostNorm())
    report = pylayers.convert(model)
    assert not report.replaced and report.kept[0].reason == "does not compute a root mean square norm"


def test_what_our_kernels_do_not_take_goes_the_way_it_went():
    model = nn.Sequential(nn.LayerNorm(8), nn.Softmax(-1))
    x = torch.randn(3, 8, dtype=torch.bfloat16)
    expected = model(x)  # parameters are float32
    pylayers.convert(model)
    assert torch.equal(model(x), expected)


LOSSES = {
    "mse": (nn.MSELoss(), ()),
    "mse, sum": (nn.MSELoss(reduction="sum"), ()),
    "logits": (nn.BCEWithLogitsLoss(torch.rand(11)), ()),
    "logits, pos_weight": (nn.BCEWithLogitsLoss(pos_weight=torch.rand(11)), ()),
    "divergence": (nn.KLDivLoss(reduction="batchmean"), ()),
    "divergence of logarithms": (nn.KLDivLoss(log_target=True), ()),
    "classes": (nn.CrossEntropyLoss(torch.rand(11), label_smoothing=0.1), torch.arange(5)),
    "bilinear": (nn.Bilinear(11, 11, 3), ()),
}


@pytest.mark.parametrize("module,target", LOSSES.values(), ids=LOSSES.keys())
def test_modules_of_two_inputs(module, target):
    x, other = torch.randn(5, 11).log_softmax(-1).requires_grad_(), torch.rand(5, 11)
    target = other if isinstance(target, tuple) else target
    expected = module(x, target)
    assert replaced(pylayers.convert(module)) == {""}
    found = module(x, target)
    torch.testing.assert_close(found, expected)
    assert found.grad_fn.name() != expected.grad_fn.name()
    pylayers.revert(module)
    assert torch.equal(module(x, target), expected)


@pytest.mark.skipif(not hasattr(nn, "LinearCrossEntropyLoss"), reason="torch 2.13 and later")
def test_linear_cross_entropy_loss():
    loss = nn.LinearCrossEntropyLoss(8, 11, bias=True, label_smoothing=0.1)
    x, target = torch.randn(5, 8), torch.arange(5)
    expected = loss(x, target)
    assert replaced(pylayers.convert(loss)) == {"", "linear"}
    torch.testing.assert_close(loss(x, target), expected)


# ---- what is put together


def test_sequences():
    model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Flatten(), nn.Linear(16, 16), nn.ReLU(), nn.Dropout(0.0), nn.Linear(16, 3), nn.Tanh())
    x = torch.randn(4, 8)
    expected = model(x)
    report = pylayers.convert(model)
    assert [entry.now for entry in report.fused] == ["0 and 1; 3 and 4"] and repr(report).startswith("Sequential: 3 Linear replaced")
    calls = []
    model[1].register_forward_hook(lambda *_: calls.append("seen"))
    torch.testing.assert_close(model(x), expected)
    assert calls == ["seen"]  # what somebody waits for is called
    assert isinstance(model[:2], nn.Sequential) and torch.equal(model[:2](x), model[1](model[0](x)))
    pylayers.revert(model)
    assert torch.equal(model(x), expected) and type(model) is nn.Sequential


def test_norm_and_activation():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(4, 8), nn.SiLU())
    x = torch.randn(2, 3, 5, 5)
    expected = model(x)
    assert pylayers.convert(model).fused[0].now == "1 and 2"
    torch.testing.assert_close(model(x), expected)
    assert not pylayers.convert(nn.Sequential(nn.LayerNorm(8), nn.SiLU())).fused
    assert not pylayers.convert(nn.Sequential(nn.GroupNorm(4, 8), nn.GELU())).fused  # of which there is no kernel


def test_large_heads_and_losses_of_ones_own():
    """A last layer with a vocabulary of outputs gives no logits to a loss that is called as a function, or as a module."""
    from pylayers.conversion.heads import Logits

    torch.manual_seed(0)
    model, loss = nn.Sequential(nn.Embedding(50, 16), nn.Linear(16, 9000)), nn.CrossEntropyLoss(label_smoothing=0.1)
    tokens, target = torch.arange(12).view(3, 4), torch.arange(12)
    expected = loss(model(tokens).flatten(0, 1), target)
    gradients = torch.autograd.grad(expected, list(model.parameters()))
    assert [entry.name for entry in pylayers.convert(model).fused] == ["1"] and pylayers.convert(loss).replaced
    for call in (loss, lambda z, t: nn.functional.cross_entropy(z, t, label_smoothing=0.1)):
        logits = model(tokens)
        found = call(logits.flatten(0, 1), target)
        assert isinstance(logits, Logits) and logits.computed is None
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(torch.autograd.grad(found, list(model.parameters())), gradients)
    other = (model(tokens).softmax(-1) * torch.arange(9000.0)).sum()
    torch.testing.assert_close(other, (model.eval()(tokens).softmax(-1) * torch.arange(9000.0)).sum())
    assert type(model(tokens)) is torch.Tensor


# ---- what is refused


def test_convert_twice():
    model, _ = made("llama", TINY)
    classes = [type(one) for one in model.modules()]
    pylayers.convert(model)
    once = [type(one) for one in model.modules()]
    report = pylayers.convert(model)
    assert not report.replaced and not report.fused and [type(one) for one in model.modules()] == once
    pylayers.revert(model)
    assert [type(one) for one in model.modules()] == classes


def test_compiled_models_are_refused():
    model = net()
    for one in (torch.compile(model), nn.Sequential(torch.compile(net()))):
        with pytest.raises(RuntimeError, match="is compiled already: convert the model first, then compile it"):
            pylayers.convert(one)


def test_running_models_are_refused():
    model = net()
    model[1].register_forward_hook(lambda *_: pylayers.convert(model))
    with pytest.raises(RuntimeError, match="the model is running"):
        model(torch.randn(2, 8))
    assert not any(hasattr(type(one), "original") for one in model.modules())


def test_meta_parameters():
    with torch.device("meta"):
        model = net()
    report = pylayers.convert(model)
    assert replaced(report) == {"0", "2", "3.0", "3.1", "4"}
    model.to_empty(device="cpu")
    with torch.device("meta"):
        model, _ = made("llama", TINY, device="meta")
    report = pylayers.convert(model)
    assert {entry.was for entry in report.replaced} == {"Linear"}
    assert all("its parameters are on the meta device" in entry.reason for entry in report.kept) and len(report.kept) == 5


@pytest.mark.parametrize("model,error,sentence", [(3, TypeError, "model must be a Module, got int")])
def test_convert_bad_input(model, error, sentence):
    for call in (pylayers.convert, pylayers.revert):
        with pytest.raises(error, match=sentence):
            call(model)
    with pytest.raises(ValueError, match="include 'nothing' matches no module of Sequential"):
        pylayers.convert(net(), include="nothing")


def test_parametrised_modules_are_left_alone():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    nn.utils.parametrizations.weight_norm(model[0])
    report = pylayers.convert(model)
    assert replaced(report) == {"1"} and report.kept[0].reason == "is parametrised"


def test_quantised_and_sharded_parameters_are_left_alone():
    """They are subclasses of Tensor, or modules with a class of their own."""
    from torch.testing._internal.two_tensor import TwoTensor

    model = net()
    model[0].weight = nn.Parameter(TwoTensor(model[0].weight.detach(), model[0].weight.detach()))
    report = pylayers.convert(model)
    assert replaced(report) == {"2", "3.0", "3.1", "4"} and report.kept[-1].reason == "weight is a TwoTensor, whose layout is its own affair"
    model = torch.ao.quantization.quantize_dynamic(net(), {nn.Linear}, dtype=torch.qint8)
    x = torch.randn(3, 8)
    expected = model(x)
    assert replaced(pylayers.convert(model)) == {"2", "3.0", "4"}
    torch.testing.assert_close(model(x), expected)


def test_our_own_layers_are_left_alone():
    model = nn.Sequential(pylayers.Linear(8, 8), pylayers.RMSNorm(8), pylayers.GatedMLP(8, 16))
    report = pylayers.convert(model)
    assert not report.replaced and not report.kept and not report.fused


# ---- the report


def test_report():
    model, inputs = made("llama", TINY)
    report = pylayers.convert(model)
    text = repr(report)
    assert "model.layers.*.mlp" in text and "GatedMLP" in text and "<table>" in report._repr_html_()
    measured = report.measure(steps=1)
    assert measured.training.speedup > 0 and "training step" in repr(measured)
    assert pylayers.convert(net()).measure(torch.randn(2, 8), steps=1).forward.speedup > 0


def test_compile():
    model, inputs = made("llama", TINY)
    expected = model(**inputs).loss
    pylayers.convert(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = torch.compile(model, fullgraph=True)(**inputs).loss
    torch.testing.assert_close(found, expected)


def test_trace(tmp_path):
    """TorchScript writes the names of classes; what is printed names ours beside them."""
    model, images = timm.create_model("vit_tiny_patch16_224", img_size=16, patch_size=8, depth=1).eval(), torch.randn(2, 3, 16, 16)
    expected = model(images)
    pylayers.convert(model)
    assert "MLP[Mlp](" in repr(model) and type(model.blocks[0].mlp).__name__ == "Mlp"
    torch.jit.trace(model, images, check_trace=False).save(tmp_path / "model.pt")
    torch.testing.assert_close(torch.jit.load(tmp_path / "model.pt")(images), expected, rtol=1e-4, atol=1e-4)


def factory(width=8):
    return net() if width == 8 else nn.Linear(width, width)


@pytest.mark.parametrize("name", ["llama", "vit_tiny_patch16_224", "resnet18", "test_conversion:factory"])
def test_command(name, capsys):
    from pylayers.__main__ import main

    small = ["hidden_size=32", "intermediate_size=48", "num_hidden_layers=1", "num_attention_heads=4", "vocab_size=99"] if name == "llama" else []
    arguments = [part for one in small for part in ("--set", one)]
    assert main(["convert", "--model", name, *arguments]) == 0
    assert "Linear" in capsys.readouterr().out


def test_command_bad_input(capsys):
    from pylayers.__main__ import main

    assert main(["convert", "--model", "no-such-model"]) == 2
    assert "no model 'no-such-model' is known here" in capsys.readouterr().err
    assert main(["convert", "--model", "test_conversion:factory", "--set", "width"]) == 2
    assert "--set takes NAME=VALUE" in capsys.readouterr().err
