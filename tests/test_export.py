"""torch.export, AOTInductor and torch.jit.trace of every layer, with other sizes than they were exported with."""

import copy
import io
import re
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from exported import CASES, DISTINCT, LAYERS, dynamic, initialised, inputs_of, several
from harness import normal
from pylayers.benchmarks import language_model

import pylayers


def tiny_language_model():
    config = replace(language_model.QUICK, dim=16, hidden=24, tokens=16)
    return language_model.build(config, language_model.OURS, torch.device("cpu")).eval()


def flat(outputs):
    return list(outputs) if isinstance(outputs, tuple) else [outputs]


def saved_and_loaded(program):
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    return torch.export.load(file)


@pytest.fixture(scope="module")
def exported():
    names = DISTINCT
    net = several(names)
    program = torch.export.export(net, (inputs_of(names),), dynamic_shapes=(dynamic(names),), strict=False)
    inputs = inputs_of(names, 2, 7)
    got = iter(saved_and_loaded(program).module()(inputs))
    outputs = {}
    for name, layer, own in zip(names, net.layers.values(), inputs, strict=True):
        outputs[name] = [(next(got), one) for one in flat(layer(*own))]
    return outputs


@pytest.mark.parametrize("name", DISTINCT)
def test_export(name, exported):
    for got, want in exported[name]:
        torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)  # the same kernels


@pytest.fixture(scope="module")
def strict():
    names = [name for name in LAYERS if name in DISTINCT]
    net = several(names)
    program = torch.export.export(net, (inputs_of(names),), dynamic_shapes=(dynamic(names),), strict=True)
    return program, net, inputs_of(names, 2, 7)


def test_export_strict(strict):
    program, net, inputs = strict
    for got, want in zip(saved_and_loaded(program).module()(inputs), net(inputs), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_export_then_decompose(strict):
    """What AOTInductor and ONNX see: kernels alone, without gradients."""
    program, net, inputs = strict
    kernels = program.run_decompositions()
    with torch.no_grad():
        for got, want in zip(kernels.module()(inputs), net(inputs), strict=True):
            torch.testing.assert_close(got, want)
    ops = {str(node.target) for node in kernels.graph.nodes if str(node.target).startswith("pylayers.")}
    public = {f"pylayers.{name}.default" for name in pylayers.functional.__all__}
    assert len(ops) > 10 and not ops & public and not any("backward" in op for op in ops)


@pytest.mark.parametrize("strict", [False, True])
def test_export_language_model(strict, tmp_path):
    model, free = tiny_language_model(), torch.export.Dim.DYNAMIC
    program = torch.export.export(model, (torch.randint(256, (2, 8)),), dynamic_shapes=({0: free, 1: free},), strict=strict)
    torch.export.save(program, tmp_path / "model.pt2")
    again = torch.export.load(tmp_path / "model.pt2").module()
    for sizes in ((2, 8), (3, 13)):
        tokens = torch.randint(256, sizes)
        torch.testing.assert_close(again(tokens), model(tokens))


def test_export_trains():
    """What is exported has gradients, by the kernels."""
    mlp, x = pylayers.GatedMLP(4, 6), normal(3, 4)
    program = saved_and_loaded(torch.export.export(copy.deepcopy(mlp), (x,))).module()
    mlp(x).square().sum().backward()
    program(x).square().sum().backward()
    for name, parameter in mlp.named_parameters():
        torch.testing.assert_close(program.get_parameter(name).grad, parameter.grad)


def test_export_draws_new_masks():
    program = saved_and_loaded(torch.export.export(pylayers.DropoutAdd(0.5), (normal(64), normal(64)))).module()
    x, zero = torch.ones(64), torch.zeros(64)
    one, other = program(x, zero), program(x, zero)
    assert set(one.tolist()) == {0.0, 2.0} and not torch.equal(one, other)


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[: len(data) // 2], lambda data: bytes(500)])
def test_load_of_damaged_files(damage):
    file = io.BytesIO()
    torch.export.save(torch.export.export(pylayers.RMSNorm(4), (normal(3, 4),)), file)
    with pytest.raises((RuntimeError, zipfile.BadZipFile)):
        torch.export.load(io.BytesIO(damage(file.getvalue())))


def test_load_with_an_op_that_is_not_there():
    library = torch.library.Library("elsewhere", "DEF")
    library.define("twice(Tensor x) -> Tensor")
    library.impl("twice", lambda x: 2 * x, "CompositeExplicitAutograd")

    class Twice(torch.nn.Module):
        def forward(self, x):
            return torch.ops.elsewhere.twice(x)

    file = io.BytesIO()
    torch.export.save(torch.export.export(Twice(), (normal(3),)), file)
    library._destroy()
    file.seek(0)
    with pytest.raises(RuntimeError, match="error when deserializing the saved file"):
        torch.export.load(file)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_trace(name):
    layer, case = initialised(name), CASES[name]
    traced = torch.jit.trace(layer, case.inputs(3, 5), check_trace=False)
    inputs = case.inputs(3, 5)
    for got, want in zip(flat(traced(*inputs)), flat(layer(*inputs)), strict=True):
        torch.testing.assert_close(got, want, equal_nan=True)


@pytest.mark.filterwarnings("ignore")
def test_trace_language_model(tmp_path):
    model, tokens = tiny_language_model(), torch.randint(256, (2, 8))
    torch.jit.trace(model, (tokens,), check_trace=False).save(tmp_path / "model.pt")
    again = torch.jit.load(tmp_path / "model.pt")
    for one in (tokens, torch.randint(256, (3, 8))):
        torch.testing.assert_close(again(one), model(one))


def compiled(model, args, dynamic_shapes, file):
    program = torch.export.export(model, args, dynamic_shapes=dynamic_shapes)
    return torch._inductor.aoti_load_package(torch._inductor.aoti_compile_and_package(program, package_path=str(file)))


KERNELS = ["AddRMSNorm", "RotaryEmbedding", "CrossEntropyLoss weights", "Parallel"]


@pytest.mark.parametrize("names", [KERNELS, pytest.param(DISTINCT, marks=pytest.mark.slow)], ids=["some", "all"])
def test_aoti(names, tmp_path):
    net = several(names).requires_grad_(False)
    run = compiled(net, (inputs_of(names),), (dynamic(names),), tmp_path / "net.pt2")
    inputs = inputs_of(names, 2, 7)
    for got, want in zip(run(inputs), net(inputs), strict=True):
        torch.testing.assert_close(got, want, equal_nan=True)


@pytest.mark.slow
def test_aoti_language_model(tmp_path):
    model, free = tiny_language_model().requires_grad_(False), torch.export.Dim.DYNAMIC
    run = compiled(model, (torch.randint(256, (2, 8)),), ({0: free, 1: free},), tmp_path / "model.pt2")
    tokens = torch.randint(256, (3, 13))
    torch.testing.assert_close(run(tokens), model(tokens))


PAGE = Path(__file__).parents[1] / "docs" / "exporting.md"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("left_out", ["aoti", pytest.param("nothing", marks=pytest.mark.slow)], ids=["but AOTInductor", "all"])
def test_page(left_out, tmp_path, monkeypatch):
    """The blocks run as they are pasted, one after the other."""
    pytest.importorskip("onnxscript")
    monkeypatch.chdir(tmp_path)
    blocks, names = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL), {}
    for block in blocks:
        if left_out not in block:
            exec(block, names)
    assert len(blocks) > 4 and {"model.pt2", "model.onnx", "model.pt"} <= {one.name for one in tmp_path.iterdir()}
