import importlib
import json
import os
import shutil
import subprocess
import sys
import threading
import types

import pytest
import torch
from harness import every_backend, normal
from pylayers import functional, reference
from pylayers.library import library_folder

import pylayers


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYLAYERS_", "TRITON_"))}
    command = [sys.executable, "-P", "-c", code]
    return subprocess.run(command, env={**clean, **environment}, capture_output=True, text=True, cwd="/")


@pytest.fixture
def counting_kernels():
    """A backend of the user's own with one kernel."""
    calls = []

    def rms_norm_forward(y, rstd, x, weight, eps, offset):
        calls.append((tuple(x.shape), rstd is None))
        r = torch.rsqrt(x.float().square().mean(-1) + eps)
        y.copy_((x * r[:, None] * (weight + offset)).to(y.dtype))
        if rstd is not None:
            rstd.copy_(r)

    taken = pylayers.register_kernels("counting", types.SimpleNamespace(rms_norm_forward=rms_norm_forward), ["cpu"])
    assert taken == ["rms_norm_forward"]
    return calls


def test_backends():
    found = pylayers.backends()
    assert {"cpu", "cuda", "triton", "reference"} <= found.keys()
    assert found["cpu"].devices == ("cpu",) and "rms_norm_forward" in found["cpu"].kernels
    for one in found.values():
        assert one.note
    assert ("cuda" in found["cuda"].devices) <= torch.cuda.is_available()


def test_backend_block_ends():
    with pylayers.backend("reference"):
        with pylayers.backend("cpu"):
            assert pylayers.backends.__globals__["choice"] == "cpu"
        assert pylayers.backends.__globals__["choice"] == "reference"
    assert pylayers.backends.__globals__["choice"] is None


def test_backend_errors():
    with pytest.raises(ValueError, match="there is no backend 'tpu'; there are cpu, cuda, triton, reference"):
        pylayers.backend("tpu").__enter__()
    with pytest.raises(ValueError, match="'cuda' is a backend of pylayers"):
        pylayers.register_kernels("cuda", types.SimpleNamespace(rms_norm_forward=print))
    with pytest.raises(ValueError, match="nothing is named like a kernel"):
        pylayers.register_kernels("mine", types.SimpleNamespace(rms_norm=print))
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="'cuda' cannot run here .*; these can: cpu"):
            pylayers.backend("cuda").__enter__()


@pytest.mark.parametrize("triton,numpy,runs", [("3.6.0", "2.4.6", False), ("3.6.0", "2.3.5", True), ("3.10.0", "2.4.6", True)])
def test_backends_tell_of_an_interpreter_that_does_not_fit(triton, numpy, runs, monkeypatch):
    inside = importlib.import_module("pylayers.backends")
    monkeypatch.setattr(inside, "version", {"triton": triton, "numpy": numpy}.get)
    sentence = f"the interpreter of Triton {triton} needs NumPy below 2.4, got {numpy}: pip install 'numpy<2.4'"
    assert inside._interpreter_fault.__wrapped__() == ("" if runs else sentence)


def test_backend_that_cannot_serve_the_tensor():
    pylayers.register_kernels("elsewhere", types.SimpleNamespace(gate_forward=print), ["cuda"])
    pylayers.backends.__globals__["doors"].select("elsewhere")
    try:
        with pytest.raises(RuntimeError, match="swiglu: backend 'elsewhere' cannot serve a tensor on cpu; these can: cpu"):
            functional.swiglu(torch.ones(2), torch.ones(2))
    finally:
        pylayers.backends.__globals__["doors"].select(None)


def test_own_kernel_is_used_and_completed(counting_kernels):
    x, weight = normal(3, 8).requires_grad_(), normal(8).requires_grad_()
    with pylayers.backend("counting"):
        y = functional.rms_norm(x, (8,), weight)
        functional.swiglu(x, x)  # it has no such kernel: the device's default serves it
    assert counting_kernels == [((3, 8), False)]
    torch.testing.assert_close(y, reference.rms_norm(x, (8,), weight))
    y.sum().backward()
    assert pylayers.backends()["counting"].kernels == ("rms_norm_forward",)
    from pylayers.check import check

    assert check("rms_norm", "counting").passed
    functional.rms_norm(x, (8,), weight)
    counted = len(counting_kernels)
    functional.rms_norm(x, (8,), weight)
    assert len(counting_kernels) == counted


def test_own_kernel_that_is_wrong_fails_its_check(counting_kernels):
    def gated(gate, up):
        return torch.nn.functional.silu(gate) * (gate if up is None else up)

    def wrong(y, gate, up, activation):
        y.copy_(gated(gate, up) * 1.01)

    def unfinished(y, gate, up, activation):
        y[1:].copy_(gated(gate, up)[1:])

    def vandal(y, gate, up, activation):
        y.copy_(gated(gate, up))
        gate.mul_(2)

    def raising(y, gate, up, activation):
        raise KeyError("lost")

    from pylayers.check import check

    for kernel, problem in ((wrong, ""), (unfinished, ""), (vandal, "writes to an input"), (raising, "KeyError: 'lost'")):
        pylayers.register_kernels(kernel.__name__, types.SimpleNamespace(gate_forward=kernel), ["cpu"])
        result = check("gate", kernel.__name__)
        assert not result.passed and result.problem == problem


def test_backward_runs_where_forward_ran(counting_kernels):
    ran = []

    def rms_norm_backward(*arguments):
        ran.append(len(arguments))
        arguments[0].zero_()

    pylayers.register_kernels("counting", types.SimpleNamespace(rms_norm_backward=rms_norm_backward), ["cpu"])
    x = normal(3, 8).requires_grad_()
    with pylayers.backend("counting"):
        y = functional.rms_norm(x, (8,), torch.ones(8))
    y.sum().backward()
    assert ran == [8]


@every_backend
def test_compiled_call_follows_the_backend(backend, device):
    x, weight = normal(3, 8, device=device), normal(8, device=device)
    compiled = torch.compile(lambda x, w: functional.linear(functional.rms_norm(x, (8,), w), x, activation="relu"), fullgraph=True)
    expected = compiled(x, weight)
    with pylayers.backend(backend):
        torch.testing.assert_close(compiled(x, weight), expected)


def test_tensor_subclass_is_seen():
    seen = []

    class Logged(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            seen.append(str(function))
            return super().__torch_function__(function, types, args, kwargs or {})

    y = functional.swiglu(normal(2, 4).as_subclass(Logged), normal(2, 4))
    assert isinstance(y, Logged) and any("swiglu" in name for name in seen)


def test_calls_from_many_threads():
    x, weight = normal(64, 256), normal(256)
    expected = functional.rms_norm(x, (256,), weight)
    same = []

    def work():
        same.extend(torch.equal(functional.rms_norm(x, (256,), weight), expected) for _ in range(20))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(same) == 160 and all(same)


def test_results_do_not_depend_on_the_number_of_threads():
    before = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            x, weight = normal(300, 500).requires_grad_(), normal(500).requires_grad_()
            functional.rms_norm(x, (500,), weight).square().sum().backward()
            results.append((x.grad, weight.grad))
    finally:
        torch.set_num_threads(before)
    for grads in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(grads, results[0], strict=True))


def test_environment_chooses_the_backend():
    code = "import pylayers, torch; print(pylayers.functional.swiglu(torch.ones(1), torch.ones(1)).item())"
    assert run_python(code, PYLAYERS_BACKEND="reference").stdout.startswith("0.73")
    wrong = run_python(code, PYLAYERS_BACKEND="tpu")
    assert "ValueError: backend: there is no backend 'tpu'" in wrong.stderr


def test_import_is_light():
    code = "import sys, pylayers, torch; print(torch.cuda.is_initialized(), 'triton' in sys.modules)"
    assert run_python(code).stdout.split() == ["False", "False"]


def test_library_built_for_another_torch(tmp_path):
    copy = tmp_path / "pylayers"
    shutil.copytree(library_folder, copy, ignore=shutil.ignore_patterns("__pycache__"))
    info = json.loads((copy / "build_info.json").read_text())
    (copy / "build_info.json").write_text(json.dumps({**info, "torch": "1.0.0"}))
    stale = run_python(f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import pylayers")
    assert "was built for torch 1.0.0, but this is torch" in stale.stderr
    (copy / "build_info.json").unlink()
    missing = run_python(f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import pylayers")
    assert "the compiled library is not in" in missing.stderr
