import json

import pytest
import torch
from pylayers.benchmarks import MODULES, compare, training
from pylayers.benchmarks import run as command
from pylayers.benchmarks.records import Results

from test_backends import run_python

from pylayers.__main__ import main


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


def test_bench_unknown_op():
    with pytest.raises(SystemExit):
        main(["bench", "--op", "sin"])


def test_language_model():
    """The same model on torch.nn and on ours: equal at the start, losses within the stated bound, something is learnt."""
    result = training.compare(torch.device("cpu"), True, False, False, lambda *step: None)
    assert result["agree"], result["differences"]
    assert result["variants"].keys() == {"torch.nn", "pylayers"}
    for variant in result["variants"].values():
        assert variant["held_out_after"] < variant["held_out_before"] - 0.3
