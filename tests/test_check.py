import pytest
import torch
from pylayers.check import compare
from test_backends import run_python

from pylayers.__main__ import main


def test_compare():
    exact = torch.linspace(1, 2, 100, dtype=torch.float64)
    plain = exact.float()
    assert compare(plain, exact, plain).passed
    assert not compare(plain * 1.000001, exact, plain).passed
    assert not compare(plain.clone().index_fill_(0, torch.tensor([7]), float("nan")), exact, plain).passed
    assert not compare(plain[1:], exact, plain).passed
    assert not compare(plain.double(), exact, plain).passed


def test_info(capsys):
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in ("cpu", "cuda", "triton", "reference", torch.__version__))


def test_check(capsys):
    assert main(["check", "--op", "gate", "--backend", "cpu"]) == 0
    assert "4 checks, 0 failed" in capsys.readouterr().out
    for arguments, sentence in (
        (["--op", "sin"], "there is no op 'sin'; there are rms_norm, layer_norm, "),
        (["--backend", "tpu"], "there is no backend 'tpu'"),
        (["--dtype", "int8"], "there is no dtype 'int8'"),
        (["--backend", "cpu", "--device", "cuda"], "nothing of this can run here"),
    ):
        with pytest.raises(SystemExit, match=sentence.replace("(", r"\(")):
            main(["check", *arguments])


def test_check_fails_with_a_wrong_kernel(tmp_path):
    module = tmp_path / "wrong_kernels.py"
    module.write_text(
        "import pylayers\n"
        "def gate_forward(y, gate, up, activation): y.copy_(gate * (gate if up is None else up))\n"
        "class Kernels: gate_forward = staticmethod(gate_forward)\n"
        "pylayers.register_kernels('wrong', Kernels, ['cpu'])\n"
    )
    command = ["--import", "wrong_kernels", "check", "--backend", "wrong", "--op", "gate"]
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from pylayers.__main__ import main; sys.exit(main({command}))"
    ran = run_python(code)
    assert ran.returncode == 1 and "FAIL" in ran.stdout
