import broken_layers as broken
import pytest
import torch
from harness import normal
from pylayers.testing import check_layer
from torch import nn

import pylayers

INPUT = normal(5, 6)


def makers(kind):
    return lambda **options: kind(**options)


@pytest.mark.parametrize(
    "make,size",
    [
        (lambda **kind: pylayers.RMSNorm(16, **kind), (5, 16)),
        (lambda **kind: pylayers.RMSNorm((4, 4), offset=1.0, **kind), (2, 3, 4, 4)),
        (lambda **kind: pylayers.Linear(16, 8, activation="gelu", **kind), (2, 3, 16)),
        (lambda **kind: pylayers.GatedMLP(16, 24, **kind), (5, 16)),
    ],
    ids=["RMSNorm", "RMSNorm with offset", "Linear", "GatedMLP"],
)
def test_our_layers_keep_every_rule(make, size):
    report = check_layer(make, normal(*size), demand=["second derivatives", "forward-mode derivatives"])
    report.raise_if_failed()
    assert not report.skipped, report


def test_good_layer_as_an_instance():
    layer = broken.Good()
    before = layer.weight.clone()
    report = check_layer(layer, INPUT)
    assert report.passed, report
    assert [one.rule for one in report.skipped] == ["device= and dtype="]
    assert torch.equal(layer.weight, before) and layer.weight.grad is None


# The layer, the rule that it breaks, and words that must be in the sentence: names, and what to do.
BROKEN = [
    (broken.WritesToItsInput, "inputs unchanged", "input 0"),
    (broken.WritesToItsParameter, "parameters unchanged", "'weight'"),
    (broken.CountsInABuffer, "buffers unchanged", "updates=['calls']"),
    (broken.WritesToASavedTensor, "saved tensors unchanged", "shape (5, 6)"),
    (broken.WritesToTheIncomingGradient, "incoming gradient unchanged", "new tensor"),
    (broken.DrawsOutsideOfTorch, "same bits twice", "output 0"),
    (broken.SplitsByThreads, "same bits with any number of threads", "output 0"),
    (broken.ReadsWeightData, "gradients reach every parameter", "'weight', which get no gradient"),
    (broken.DetachesItsInput, "gradients reach every input", "input 0"),
    (broken.ComputesAWrongGradient, "first derivatives", "finite differences"),
    (broken.DetachesInBackward, "second derivatives", "silently wrong"),
    (broken.HasZeroTangents, "forward-mode derivatives", "silently wrong"),
    (broken.KeepsItsOutputBesideAutograd, "output may be edited", "ctx.save_for_backward"),
    (broken.CannotBeFrozen, "frozen parameters", "'weight'"),
    (broken.ComputesGradientsThatNobodyAskedFor, "no gradient that nobody asked for", "'weight'"),
    (broken.SavesWithoutGrad, "nothing saved without grad", "torch.enable_grad()"),
    (broken.KeepsItsLastInput, "keeps nothing of a call", "'last'"),
    (broken.SumsInTheDtypeOfTheInput, "float16", "compute sums"),
    (broken.ReturnsFloat32, "bfloat16", "torch.float32"),
    (broken.ReadsMemoryAsIfContiguous, "any strides", "output 0"),
    (broken.ViewsTheIncomingGradient, "any strides of the incoming gradient", "RuntimeError"),
    (broken.FlattensTheRest, "no rows", "RuntimeError"),
    (broken.HidesAConstant, "no hidden tensors", "\"constants['table'][0]\""),
    (broken.HidesModules, "no hidden modules", "'steps[0]', 'steps[1]'"),
    (broken.HasASpecialParameter, "plain parameters", "weight (SpecialParameter)"),
    (broken.SavesUnderAnotherName, "state_dict round trip", "weight"),
    (broken.DoesNotSaveARandomBuffer, "state_dict round trip", "buffer"),
    (broken.CannotBeCopied, "deepcopy", "there is only one"),
    (broken.CannotBePickled, "pickle", "lambda"),
    (broken.WaitsForTheDevice, "no device sync", "_local_scalar_dense"),
    (broken.HasNoShapesOnMeta, "meta device", "no kernel for meta tensors"),
    (broken.ComputesATableOnce, "to_empty", "reset_parameters()"),
    (broken.StaysInItsDtype, "follows .to(dtype)", "'weight'"),
    (broken.IgnoresItsDtype, "device= and dtype=", "'weight'"),
    (broken.CannotBeReset, "reset_parameters", "CannotBeReset has no"),
    (broken.ResetMakesNewParameters, "reset_parameters", "new Parameters"),
    (broken.EvalReturnsNothing, "train and eval", "return super().train(mode)"),
    (broken.BreaksTheGraph, "torch.compile", "fullgraph=True"),
    (broken.MixesDtypesUnderAutocast, "autocast", "RuntimeError"),
    (broken.PrintsItsNumbers, "readable repr", "extra_repr()"),
    (broken.SaysNothing, "readable repr", "extra_repr()"),
    (broken.CrashesOnNone, "bad input gets a sentence", "SIGSEGV"),
    (broken.TakesNone, "bad input gets a sentence", "None as input 0"),
    (broken.HangsUp, "bad input gets a sentence", "SystemExit"),
]


@pytest.mark.parametrize("kind,rule,words", BROKEN, ids=[one[0].__name__ for one in BROKEN])
def test_broken_rule_is_found_and_no_other(kind, rule, words):
    report = check_layer(makers(kind), INPUT)
    others = ["torch.compile"] if kind is broken.HasZeroTangents else []  # Dynamo does not take a custom jvp
    assert [one.rule for one in report.failed] == [rule, *others], str(report)
    assert words in report[rule].sentence, report[rule].sentence
    with pytest.raises(AssertionError, match=kind.__name__):
        report.raise_if_failed()


def test_every_rule_has_a_layer_that_breaks_it():
    every = {one.rule for one in check_layer(broken.Good(), INPUT)}
    assert every - {rule for _, rule, _ in BROKEN} == {"float64", "float32"}  # see test_reference


def off(factor):
    return lambda x, weight: x * weight * factor


def test_reference():
    ours = makers(broken.Good)
    for reference in (off(1), broken.Good()):
        assert check_layer(ours, INPUT, reference=reference).passed
    dtypes = ["float64", "float32", "bfloat16", "float16"]
    report = check_layer(ours, INPUT, reference=off(1.001), only=dtypes)
    assert {"float64", "float32"} <= {one.rule for one in report.failed} and "off by" in report["float32"].sentence
    assert check_layer(ours, INPUT, reference=off(1.001), rtol=1e-2, only=dtypes).passed
    assert not check_layer(ours, INPUT, reference=off(1.001), rtol=1e-4, only=dtypes)["float64"].verdict == "pass"
    assert check_layer(lambda **kind: pylayers.Linear(6, 3, **kind), INPUT, reference=nn.Linear(6, 3)).passed


def test_wrong_gradient_is_seen_by_the_reference():
    wrong = check_layer(makers(broken.ComputesAWrongGradient), INPUT, reference=lambda x, weight: (x * weight).square(), only=["float32"])
    assert "gradient of" in wrong["float32"].sentence


def test_updates_of_buffers():
    counting = broken.CountsInABuffer()
    assert "updates=['calls']" in check_layer(counting, INPUT, only=["buffers unchanged"])["buffers unchanged"].sentence
    told = check_layer(counting, INPUT, only=["buffers unchanged"], updates=["calls"])["buffers unchanged"]
    assert told.verdict == "FAIL" and "eval mode" in told.sentence
    norm = check_layer(lambda **kind: nn.BatchNorm1d(6, **kind), INPUT)
    assert norm.passed and "running_mean" in norm["buffers unchanged"].sentence


def test_demand():
    layer = broken.WritesToASavedTensor()
    rule = "forward-mode derivatives"
    assert check_layer(layer, INPUT, only=[rule])[rule].verdict == "skipped"
    assert "not supported" in check_layer(layer, INPUT, only=[rule], demand=[rule])[rule].sentence
    assert check_layer(layer, INPUT, only=[rule], demand=[rule])[rule].verdict == "FAIL"


def test_layers_of_torch():
    for layer, *inputs in (
        (nn.Dropout(0.5), INPUT),
        (nn.Embedding(10, 4), torch.tensor([[1, 2, 3], [4, 5, 1]])),
        (nn.Sequential(nn.Linear(6, 4), nn.GELU(), nn.LazyLinear(3)), INPUT),
        (nn.Bilinear(6, 6, 3), INPUT, INPUT + 1),
        (nn.Flatten(), normal(2, 3, 4)),
    ):
        report = check_layer(layer, *inputs, only=None)
        assert report.passed, report


def test_report_is_readable():
    report = check_layer(makers(broken.ReadsWeightData), INPUT)
    lines = str(report).splitlines()
    assert lines[0] == "ReadsWeightData" and lines[-1].endswith(f"1 failed, {len(report.skipped)} skipped")
    assert len(lines) == len(list(report)) + 2
    (line,) = [one for one in lines if one.startswith("FAIL")]
    assert line.split(maxsplit=1)[1].startswith("gradients reach every parameter") and ".data" in line
    with pytest.raises(KeyError, match="there is no rule 'speed'"):
        report["speed"]


def test_arguments():
    with pytest.raises(ValueError, match="there is no rule 'speed'; there are inputs unchanged"):
        check_layer(broken.Good(), INPUT, only=["speed"])
    with pytest.raises(TypeError, match="must be a Module, or a function that makes one, got int"):
        check_layer(lambda: 3, INPUT)
    with pytest.raises(TypeError, match="must have a Tensor among them"):
        check_layer(broken.Good(), 3)


def test_leaves_the_process_as_it_was():
    layer = broken.Good()
    generator, threads = torch.get_rng_state(), torch.get_num_threads()
    check_layer(layer, INPUT)
    assert torch.equal(torch.get_rng_state(), generator) and torch.get_num_threads() == threads
    assert INPUT.grad is None and not INPUT.requires_grad
