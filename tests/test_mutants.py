"""Faults planted into the kernels are noticed by the ordinary tests."""

from importlib.util import find_spec

import pytest
from pylayers.emulator import toolkit
from pylayers.testing import mutants

ALL = list(mutants.mutants())
QUICK = {
    "cpu": "the tail of a sum is forgotten",
    **dict.fromkeys(("cuda", "triton"), "coefficients are read behind the last"),  # by leading_fourier, which compiles soon
}


def _can_run(kind: str) -> bool:
    if kind == "triton":
        return find_spec("triton") is not None
    try:
        return kind == "cpu" or bool(toolkit.find())
    except RuntimeError:
        return False


@pytest.mark.parametrize("mutant", ALL, ids=[one.name for one in ALL])
def test_fault_can_be_planted(mutant):
    assert not mutant.fault.problem()


@pytest.mark.parametrize("kind", QUICK)
def test_a_fault_is_noticed(kind, tmp_path):
    if not _can_run(kind):
        pytest.skip(f"nothing to compile {kind} kernels with")
    (mutant,) = (one for one in ALL if one.kind == kind and one.fault.why == QUICK[kind])
    mutants.prepare(tmp_path)
    assert mutants.run(mutant, tmp_path).verdict == "died"


@pytest.mark.slow
@pytest.mark.parametrize("kind", QUICK)
def test_faults_are_noticed(kind):
    if not _can_run(kind):
        pytest.skip(f"nothing to compile {kind} kernels with")
    assert mutants.main(["--kind", kind]) == 0


def test_list(capsys):
    assert mutants.main(["--list", "--kind", "cpu", "--only", "eps forgotten"]) == 0
    assert capsys.readouterr().out.startswith("cpu-rms_norm-1 ")
    with pytest.raises(SystemExit, match="mutants: there is none like that"):
        mutants.main(["--only", "no such text"])
