import collections
import json

import pytest
import torch
from pylayers.benchmarks import BENCHMARKS, MODULES, compare, measure, plots, processes, tables, targets, training
from pylayers.benchmarks import run as command
from pylayers.benchmarks.harness import Plan
from pylayers.benchmarks.records import Results
from pylayers.check import Result

from test_backends import run_python

from pylayers.__main__ import main

PASSED = Result("", "cpu", "cpu", torch.float32, 0.0, 1.0, "")
OF_OTHER_TESTS = Result("", "", "cpu", torch.float32, 0.0, 1.0, "", "registered by another test")


def bench(folder, *more: str) -> int:
    """In a process of its own: other tests register backends that are wrong on purpose, and bench refuses to time them."""
    arguments = ["bench", "--quick", "--op", "rms_norm", "--device", "cpu", "--output", str(folder), *more]
    return run_python(f"import sys; from pylayers.__main__ import main; sys.exit(main({arguments}))").returncode


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    assert bench(folder) == 0
    return folder


def test_bench(report):
    results = json.loads((report / "results.json").read_text())
    assert results["machine"]["torch"] and results["roofs"] and results["cases"]
    page = (report / "index.html").read_text()
    assert "rms_norm" in page and "<script src" not in page and "<link" not in page


@pytest.mark.parametrize("module", MODULES, ids=[module.title for module in MODULES])
def test_modules_give_what_those_they_replace_give(module):
    inputs = [torch.randn(module.size) for _ in range(module.inputs)]
    ours, eager = module.ours()(*inputs), module.eager()(*inputs)
    assert ours.shape == eager.shape and ours.dtype == eager.dtype


def test_bench_compare(report, tmp_path, monkeypatch):
    now = (report / "results.json").read_text()
    once = json.loads(now)
    for case in once["cases"]:
        timing = case["entries"]["cpu"]["timing"]
        timing.update({key: timing[key] / 1000 for key in ("p20", "median", "p80")})
    old, new = Results.from_json(json.dumps(once)), Results.from_json(now)
    assert len(compare.regressions(old, new, 0.2).rows) == len(once["cases"])
    assert not compare.regressions(new, new, 0.2).rows and not compare.regressions(new, old, 0.2).rows

    def measured_above(args, device, results, screen):
        results.roofs, results.cases = new.roofs, new.cases

    monkeypatch.setattr(command, "_measure_all", measured_above)
    for earlier, code in ((once, 1), (json.loads(now), 0)):
        (tmp_path / "old.json").write_text(json.dumps(earlier))
        options = ["--quick", "--device", "cpu", "--output", str(tmp_path), "--compare", str(tmp_path / "old.json")]
        assert main(["bench", *options]) == code


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_bench_that_is_stopped(report, tmp_path, monkeypatch, capsys, error):
    """What was measured until then is reported."""
    new = Results.from_json((report / "results.json").read_text())

    def measured_at_first(args, device, results, screen):
        results.roofs, results.cases = new.roofs, new.cases[:3]
        raise error

    monkeypatch.setattr(command, "_measure_all", measured_at_first)
    options = ["bench", "--device", "cpu", "--output", str(tmp_path)]
    if error is KeyboardInterrupt:
        assert main(options) == 130
    else:
        with pytest.raises(error):
            main(options)
    assert f"Stopped by {error.__name__}" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "results.json").read_text())["cases"]) == 3 and (tmp_path / "index.html").exists()


@pytest.mark.parametrize("title", dict.fromkeys(one.title for one in BENCHMARKS))
def test_every_step_can_be_called(title):
    """Each function forward and backward, at its least size: a bench of an hour must not end with an exception."""
    (benchmark,) = (one for one in BENCHMARKS if one.title == title)
    plan = Plan(benchmark, benchmark.sizes["cpu"][0], torch.float32, True, False)
    checks = collections.defaultdict(lambda: OF_OTHER_TESTS, cpu=PASSED)
    for case in measure.measure(plan, torch.device("cpu"), checks, 0.0):
        assert case.entries["cpu"].timing and case.entries["eager"].timing


def test_bench_unknown_op():
    with pytest.raises(SystemExit):
        main(["bench", "--op", "sin"])


def test_language_model():
    """The same model on torch.nn and on ours: equal at the start, losses within the stated bound, something is learnt."""
    result = training.compare(torch.device("cpu"), True, False, False, lambda *step: None)
    assert result["agree"], result["differences"]
    assert result["variants"].keys() == {"torch.nn", "pylayers"}
    every = {name: result["variants"]["pylayers"] for name in ("torch.nn", "pylayers", "pylayers, unfused", "torch.nn, compiled", "pylayers, compiled")}
    full = Results({}, "cpu", False, model={**result, "variants": every})
    assert plots.losses(full).data
    assert {"compiled: not slower than torch.nn compiled", "held-out loss falls"} < {target["goal"] for target in targets.judge(full)}
    for variant in result["variants"].values():
        assert variant["held_out_after"] < variant["held_out_before"] - 0.3


def test_converted_models(tmp_path, monkeypatch, one_thread):
    """Every column of the report on models of other packages, beside what a conversion promises."""
    pytest.importorskip("transformers")
    from pylayers.benchmarks import conversion, models

    monkeypatch.setattr(conversion, "SMALL", models.TINY)
    monkeypatch.setattr(conversion, "NARROW", models.TINY)
    monkeypatch.setattr(conversion, "BUDGET", 0.01)
    monkeypatch.setattr(torch, "compile", lambda model: model)
    assert main(["bench", "--device", "cpu", "--output", str(tmp_path), "--model", "llama", "--model", "vit"]) == 0
    results = Results.from_json((tmp_path / "results.json").read_text())
    assert [(case.title, case.dtype) for case in results.cases] == [(name, dtype) for name in ("llama", "vit") for dtype in ("float32", "bfloat16")]
    for case in results.cases:
        assert all(case.median(name) for name in ("eager", "converted", "compile", "converted, compiled")) and 0 < case.products < 1
        assert case.entries["liger_kernel"].note == "n/a: needs a GPU"
        assert case.entries["converted"].peak_bytes and case.entries["eager"].peak_bytes
    goals = {target["goal"] for target in results.targets}
    assert {"1.08x the original models, geometric mean", "converted: not slower than the original", "peak memory not above the original's"} <= goals
    html = (tmp_path / "index.html").read_text()
    assert "Models of other packages" in html and "won of the rest" in html


def test_training_on_processes():
    """Both sets of layers, on as many ranks as there are to be; and what the tables say of it."""
    found = processes.measure("ddp", torch.device("cpu"), steps=2)
    assert not [entry.note for entry in found.entries.values() if entry.note] and found.speedup("pylayers") > 0
    results = Results({}, "cpu", False, cases=[found])
    assert tables.processes(results).rows[0][0].text == "DDP"
    assert [target["met"] in (True, False) for target in targets.judge(results)] == [True]
    found.entries["pylayers"].timing = None
    assert [target["met"] for target in targets.judge(results)] == [None]
