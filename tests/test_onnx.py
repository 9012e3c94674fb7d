"""Exported models in onnxruntime, with other sizes than they were exported with, against the models themselves."""

import ast
import collections
import importlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from exported import DISTINCT, LAYERS, Call, dynamic, inputs_of, several
from harness import normal
from pylayers import functional as F
from pylayers.benchmarks import language_model
from torch import nn

import pylayers

onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

# What is another graph where the opset has no operator for it.
SPELT_OUT = ["RMSNorm", "AddRMSNorm", "AddLayerNorm", "GroupNorm", "GroupNorm of vectors", "geglu_packed", "GatedMLP gelu_tanh", "LeadingFourier"]
SPELT_OUT += [name for name in DISTINCT if name.startswith("rotary")]
CLOSE = {torch.float64: 1e-13, torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def onnx_value(tensor):
    if tensor.dtype == torch.bfloat16:  # which numpy does not have
        return onnxruntime.OrtValue.from_dlpack(tensor.contiguous())
    return onnxruntime.OrtValue.ortvalue_from_numpy(tensor.numpy())


def run(file, tensors):
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    feed = {one.name: onnx_value(tensor) for one, tensor in zip(session.get_inputs(), tensors, strict=True)}
    return [torch.from_dlpack(one._ortvalue) for one in session.run_with_ort_values(None, feed)]


def as_real(tensor):
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def results(names, opset, file):
    """What onnxruntime and the model make of inputs of other sizes, by name of the case."""
    net = several(names)
    pylayers.onnx.export(net, (inputs_of(names),), file, opset=opset, dynamic_shapes=(dynamic(names),))
    inputs = inputs_of(names, 2, 7)
    got, found = iter(run(file, [one for own in inputs for one in own])), {}
    for name, layer, own in zip(names, net.layers.values(), inputs, strict=True):
        with torch.no_grad():
            want = layer(*own)
        want = want if isinstance(want, tuple) else (want,)
        found[name] = [(next(got), as_real(one)) for one in want]
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("onnx")


@pytest.fixture(scope="module")
def newest(folder):
    return results(DISTINCT, 23, folder / "newest.onnx")


@pytest.fixture(scope="module")
def oldest(folder):
    return results(SPELT_OUT, 18, folder / "oldest.onnx")


def assert_same(pairs, times=1):
    for got, want in pairs:
        close = times * CLOSE[want.dtype]
        torch.testing.assert_close(got, want, rtol=close, atol=close, equal_nan=True)


@pytest.mark.parametrize("name", DISTINCT)
def test_export(name, newest):
    assert_same(newest[name], times=10 if "ourier" in name else 1)  # onnxruntime adds one term after the other


@pytest.mark.parametrize("name", SPELT_OUT)
def test_export_of_opset_18(name, oldest):
    assert_same(oldest[name], times=10 if "ourier" in name else 1)


def test_export_catalogue_is_whole():
    public = {name: getattr(pylayers, name) for name in pylayers.__all__}
    assert {name for name, one in public.items() if isinstance(one, type) and issubclass(one, nn.Module)} == set(LAYERS)


def test_translations_know_every_op():
    """Ops are called by users, and then taken apart; or have a translation; or belong to a backward."""
    ops = {schema.name.removeprefix("pylayers::") for schema in torch._C._jit_get_all_schemas() if schema.name.startswith("pylayers::")}
    known = {op.name().removeprefix("pylayers::") for op in pylayers.onnx.translations()}
    left = ops - known - set(F.__all__) - {"dropout_add_forward", "two_sided_uniform_"}
    assert known < ops and all(name.endswith("_backward") for name in left), left


def test_export_takes_standard_operators(newest, folder):
    model = onnx.load(folder / "newest.onnx")
    onnx.checker.check_model(model)
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 23)] and not model.functions
    count = collections.Counter(node.op_type for node in model.graph.node)
    norms = "RMSNormalization", "LayerNormalization", "GroupNormalization"
    for name in (*norms, "RotaryEmbedding", "SoftmaxCrossEntropyLoss", "Gelu", "DFT", "Softplus"):
        assert count[name], f"{name} is not among {dict(count)}"


def test_export_language_model(tmp_path):
    config = replace(language_model.QUICK, dim=16, hidden=24, tokens=16)
    model = language_model.build(config, language_model.OURS, torch.device("cpu")).eval()
    tokens, free = torch.randint(256, (2, 8)), torch.export.Dim.DYNAMIC
    program = pylayers.onnx.export(model, (tokens,), tmp_path / "model.onnx", dynamic_shapes=({0: free, 1: free},))
    assert isinstance(program, torch.onnx.ONNXProgram)
    for sizes in ((2, 8), (3, 13)):
        tokens = torch.randint(256, sizes)
        assert_same(zip(run(tmp_path / "model.onnx", [tokens]), [model(tokens).detach()], strict=True), times=5)


class SpeltOut(nn.Module):
    """A rotation in operators of torch, as other packages have it: of halves, by tables of one sequence for all."""

    def __init__(self):
        super().__init__()
        self.norm = pylayers.RMSNorm(8)
        self.register_buffer("speed", 10000 ** (-torch.arange(0, 8, 2) / 8.0))

    def forward(self, x):
        angle = torch.arange(x.shape[2])[None, :, None] * self.speed
        angle = torch.cat((angle, angle), -1)
        cos, sin = angle.cos().unsqueeze(1), angle.sin().unsqueeze(1)
        half = self.norm(x)
        return half * cos + torch.cat((-half[..., 4:], half[..., :4]), -1) * sin


@pytest.mark.parametrize("opset", [18, 23])
def test_export_of_rotations_that_are_spelt_out(opset, tmp_path):
    """torch makes RotaryEmbedding of them in opset 23, whose tables have as many sequences as x."""
    model, free = SpeltOut().eval(), torch.export.Dim.DYNAMIC
    pylayers.onnx.export(model, (normal(2, 3, 5, 8),), tmp_path / "model.onnx", opset=opset, dynamic_shapes=({0: free, 2: free},))
    kinds = {node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node}
    assert ("RotaryEmbedding" in kinds) == (opset == 23)
    for sizes in ((2, 3, 5, 8), (4, 3, 7, 8)):
        x = normal(*sizes)
        assert_same(zip(run(tmp_path / "model.onnx", [x]), [model(x).detach()], strict=True), times=4)


def test_export_of_a_program(tmp_path):
    """A .pt2 file goes on to ONNX; in inference mode, too."""
    x = normal(3, 4)
    program = torch.export.export(NORM, (x,))
    with torch.inference_mode():
        pylayers.onnx.export(program, (), str(tmp_path / "model.onnx"))
    assert_same(zip(run(tmp_path / "model.onnx", [x]), [NORM(x).detach()], strict=True))


def test_export_by_name_through_a_link(tmp_path):
    (tmp_path / "link.onnx").symlink_to(tmp_path / "model.onnx")
    pylayers.onnx.export(NORM, (), tmp_path / "link.onnx", kwargs={"input": X[0]})
    assert (tmp_path / "link.onnx").is_symlink()
    assert_same(zip(run(tmp_path / "model.onnx", X), [NORM(*X).detach()], strict=True))


def lazy():
    return nn.Sequential(pylayers.LazyRMSNorm()).eval()


def half_trained():
    net = nn.Sequential(pylayers.RMSNorm(4), nn.Dropout()).eval()
    net[1].train()
    return net


X = (normal(3, 4),)
NORM = pylayers.RMSNorm(4).eval()
DROPS = Call(lambda x: F.dropout_add(x, x, 0.5, True)).eval()
FILLS = Call(lambda x: pylayers.init.two_sided_uniform_(x.clone())).eval()


@pytest.mark.parametrize(
    "arguments,error,sentence",
    [
        (lambda path: (pylayers.RMSNorm(4), X, path), ValueError, "export: model must be in eval mode, but it is in training mode"),
        (lambda path: (half_trained(), X, path), ValueError, "but 1 is in training mode: call model.eval() first"),
        (lambda path: (lazy(), X, path), ValueError, "export: 0.weight has no shape before the first input"),
        (lambda path: (DROPS, X, path), ValueError, "export: model draws random numbers, as dropout_add does"),
        (lambda path: (FILLS, X, path), ValueError, "export: model draws random numbers"),
        (lambda path: (torch.relu, X, path), TypeError, "export: model must be a Module or an ExportedProgram, got builtin"),
        (lambda path: (NORM, X[0], path), TypeError, "export: args must be a tuple of the arguments of one call, got Tensor"),
        (lambda path: (NORM, X, path.parent / "none" / "a.onnx"), FileNotFoundError, "export: path must be in a folder that is there"),
        (lambda path: (NORM, X, path.parent), IsADirectoryError, "export: path must be the name of a file, got the folder"),
        (lambda path: (NORM, X, None), TypeError, "export: path must be a str or a Path, got NoneType"),
    ],
)
def test_export_refuses(arguments, error, sentence, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    with pytest.raises(error) as raised:
        pylayers.onnx.export(*arguments(path))
    assert sentence in str(raised.value)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("opset,error", [(17, ValueError), (24, ValueError), ("23", TypeError), (True, TypeError)])
def test_export_opset(opset, error, tmp_path):
    with pytest.raises(error, match="opset must be"):
        pylayers.onnx.export(NORM, X, tmp_path / "model.onnx", opset=opset)
    with pytest.raises(error, match="translations: opset must be"):
        pylayers.onnx.translations(opset)


def test_export_that_cannot_be_written(tmp_path, monkeypatch):
    """A disk that fills up leaves the old file and nothing else."""
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")

    def save(program, file):
        file.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch.onnx.ONNXProgram, "save", save)
    with pytest.raises(OSError, match="No space"):
        pylayers.onnx.export(NORM, X, path)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_export_without_onnx(tmp_path, monkeypatch):
    table = importlib.import_module("pylayers.onnx.table")
    monkeypatch.setattr(table, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(ImportError, match=r"export: ONNX needs onnxscript, not found here: pip install torch-pylayers\[onnx\]"):
        pylayers.onnx.export(NORM, X, tmp_path / "model.onnx")


def test_import_needs_no_onnx():
    """What is imported when a module of ours is; others are imported within functions."""
    for file in Path(pylayers.onnx.__file__).parent.glob("*.py"):
        names = [one for one in ast.parse(file.read_text()).body if isinstance(one, ast.Import | ast.ImportFrom)]
        found = {name for one in names for name in ([one.module] if isinstance(one, ast.ImportFrom) else [each.name for each in one.names])}
        assert not {name for name in found if name and name.startswith(("onnx", "numpy"))}, file
    tree = ast.parse(Path(pylayers.__file__).read_text())
    assert not [one for one in ast.walk(tree) if isinstance(one, ast.ImportFrom) and any(name.name == "onnx" for name in one.names)]
