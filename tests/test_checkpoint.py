import collections
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy
import pytest
import torch
from checkpoint_training import everything, train, train_step, weights
from harness import normal
from pylayers import io
from torch import nn

import pylayers

@pytest.fixture(scope="module")
def server():
    """Forks the training processes."""
    command = [sys.executable, str(Path(__file__).with_name("checkpoint_training.py"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.stdin.close()


def run(server, folder, steps, kill_at=None, kill_after=None) -> int:
    """The exit code of a training process, which is killed after that many seconds of training."""
    log = folder / "log"
    begun = log.read_bytes().count(b"(") if log.exists() else 0
    print(json.dumps([str(folder), steps, kill_at]), file=server.stdin, flush=True)
    child = int(server.stdout.readline())
    if kill_after is not None:
        while os.path.exists(f"/proc/{child}") and (not log.exists() or log.read_bytes().count(b"(") == begun):
            time.sleep(0.001)
        time.sleep(kill_after)
        with contextlib.suppress(ProcessLookupError):  # it had ended by itself
            os.kill(child, signal.SIGKILL)
    return int(server.stdout.readline())


def uninterrupted(steps) -> dict:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        parts = everything()
        for _ in range(steps):
            train_step(**parts)
        return weights(parts["model"])
    finally:
        torch.set_num_threads(threads)


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def returned_saves(folder) -> int:
    """How many saves of the last run have returned. Everything under a checkpoint's name must be whole."""
    checkpoint = io.Checkpoint(folder / "run", keep=9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in checkpoint.steps():
            io.objects.read_structure(folder / "run" / f"step-{step:012d}.safetensors", "checkpoint", KEYS, torch.device("cpu"))
    return len((folder / "log").read_bytes().split(b"(")[-1])


KEYS = {"step", "objects", "random"}


def killed_again_and_again(server, folder, steps, kills, seed) -> int:
    """Kills a run at random moments until it has been killed so often, then lets it end. How often it was killed."""
    draw, killed, returned = random.Random(seed), 0, 0
    while killed < kills:
        before = max(io.Checkpoint(folder / "run").steps(), default=0)
        if run(server, folder, steps, kill_after=draw.uniform(0, 0.06)) == 0:
            break
        killed += 1
        returned = before + returned_saves(folder)
        newest = max(io.Checkpoint(folder / "run").steps(), default=0)
        assert returned <= newest <= returned + 1, "a checkpoint whose save had returned is lost"
    assert run(server, folder, steps) == 0
    return killed


def test_kill_a_few_times(server, tmp_path):
    assert killed_again_and_again(server, tmp_path, 120, 3, seed=1) == 3
    assert same(io.load(tmp_path / "final"), uninterrupted(120))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_kill_often(server, tmp_path, seed):
    killed = killed_again_and_again(server, tmp_path, 400, 30, seed)
    assert killed >= 20
    assert same(io.load(tmp_path / "final"), uninterrupted(400))


def test_kill_at_any_call(server, tmp_path):
    """The process kills itself at each call of a save, the folder having older checkpoints."""
    assert run(server, tmp_path, 2) == 0
    (tmp_path / "final").unlink()
    step, calls = 2, 0
    while run(server, tmp_path, step + 1, kill_at=calls) != 0:
        newest = max(io.Checkpoint(tmp_path / "run").steps())
        assert newest - step in (0, 1) and newest >= step + returned_saves(tmp_path)
        if newest == step + 1:
            step += 1
        calls += 1
    assert calls > 15 and step >= 4
    assert same(io.load(tmp_path / "final"), uninterrupted(step + 1))
    assert not list((tmp_path / "run").glob(".*")), "a later save clears up what a killed process left"


# In this process.


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run"


def trained(parts, checkpoint, steps, start=0):
    for step in range(start, steps):
        train_step(**parts)
        checkpoint.save(step + 1, **parts)
    return parts


def state_tensors(optimizer):
    parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
    return [one for parameter in parameters for one in optimizer.state[parameter].values()]


def test_resume_is_exact(folder):
    trained(everything(), io.Checkpoint(folder), 5)
    torch.manual_seed(77)
    parts = everything()
    assert io.Checkpoint(folder).resume(**parts) == 5
    for _ in range(4):
        train_step(**parts)
    exact = everything()
    for _ in range(9):
        train_step(**exact)
    assert same(weights(parts["model"]), weights(exact["model"]))
    assert parts["model"][0].weight is parts["model"][3].weight
    for one, other in zip(state_tensors(parts["optimizer"]), state_tensors(exact["optimizer"]), strict=True):
        assert torch.equal(one, other) and one.dtype == other.dtype
    assert parts["optimizer"].state_dict()["param_groups"] == exact["optimizer"].state_dict()["param_groups"]
    assert parts["scheduler"].state_dict() == exact["scheduler"].state_dict()


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, amsgrad=True),
    "fused adamw": lambda p: torch.optim.AdamW(p, fused=True),
    "foreach": lambda p: torch.optim.AdamW(p, foreach=True),
    "tensor lr": lambda p: torch.optim.Adam(p, lr=torch.tensor(0.01)),
    "rmsprop": lambda p: torch.optim.RMSprop(p, centered=True, momentum=0.5),
    "adagrad": torch.optim.Adagrad,
    "adadelta": torch.optim.Adadelta,
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
    "rprop": torch.optim.Rprop,
    "asgd": torch.optim.ASGD,
    "adamax": torch.optim.Adamax,
    "adafactor": torch.optim.Adafactor,
    "lbfgs": lambda p: torch.optim.LBFGS(p, max_iter=2),
}


def optimise(model, optimizer, x):
    def loss():
        optimizer.zero_grad()
        value = model(x).float().square().mean()
        value.backward()
        return value

    optimizer.step(loss)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_resume_optimizers(name, dtype, folder):
    def fresh():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4, bias=False)).to(dtype)
        model[2].weight = model[0].weight
        rate = torch.tensor(0.02) if name == "tensor lr" else 0.02
        groups = [{"params": [model[0].weight], "lr": rate}, {"params": [model[0].bias]}]
        return model, OPTIMIZERS[name](model.parameters() if name == "lbfgs" else groups)

    inputs = normal(6, 3, 4, dtype=dtype)
    model, optimizer = fresh()
    for x in inputs[:3]:
        optimise(model, optimizer, x)
    io.Checkpoint(folder).save(3, model=model, optimizer=optimizer)
    again, resumed = fresh()
    assert io.Checkpoint(folder).resume(model=again, optimizer=resumed) == 3
    before, after = optimizer.state_dict(), resumed.state_dict()
    assert repr(before) == repr(after) and dtypes_of(before) == dtypes_of(after)
    for x in inputs[3:]:
        optimise(model, optimizer, x)
        optimise(again, resumed, x)
    assert same(model.state_dict(), again.state_dict())


def dtypes_of(state):
    items = (item for entry in state["state"].values() for item in entry.items())
    return [(key, one.dtype, one.device) for key, one in items if isinstance(one, torch.Tensor)]


def test_resume_keeps_dtypes_of_optimizer_states(folder):
    """torch's load_state_dict casts every state to the dtype of its parameter."""

    class Wide(torch.optim.Optimizer):
        def __init__(self, params):
            super().__init__(params, {})

        @torch.no_grad()
        def step(self):
            for parameter in self.param_groups[0]["params"]:
                master = self.state[parameter].setdefault("master", parameter.float().clone())
                parameter.copy_(master.sub_(parameter.grad.float() * 1e-3))

    model, again = (nn.Linear(3, 3, dtype=torch.bfloat16) for _ in range(2))
    model(torch.ones(1, 3, dtype=torch.bfloat16)).sum().backward()
    optimizer, resumed = Wide(model.parameters()), Wide(again.parameters())
    optimizer.step()
    io.Checkpoint(folder).save(1, model=model, optimizer=optimizer)
    io.Checkpoint(folder).resume(model=again, optimizer=resumed)
    for one, other in zip(state_tensors(optimizer), state_tensors(resumed), strict=True):
        assert one.dtype == other.dtype == torch.float32 and torch.equal(one, other)


@pytest.mark.parametrize("materialised", [True, False])
def test_resume_lazy(folder, materialised):
    """A net without sizes takes the state of one that has met data, and the other way it says so."""

    def fresh():
        torch.manual_seed(0)
        return nn.Sequential(nn.LazyLinear(4), nn.Tanh(), nn.LazyLinear(2))

    x, model = normal(3, 5), fresh()
    if materialised:
        model(x)
        optimizer = torch.optim.Adam(model.parameters())
        optimise(model, optimizer, x)
        io.Checkpoint(folder).save(1, model=model, optimizer=optimizer)
    else:
        io.Checkpoint(folder).save(1, model=model)
    again = fresh()
    resumed = torch.optim.Adam(again.parameters())
    if not materialised:
        io.Checkpoint(folder).resume(model=again)
        assert all(nn.parameter.is_lazy(one) for one in again.parameters())
        torch.manual_seed(1)
        again(x)
        with pytest.raises(ValueError, match="the one that was saved: '0.weight' was not initialised when it was saved"):
            io.Checkpoint(folder).resume(model=again)
        return
    assert io.Checkpoint(folder).resume(optimizer=resumed, model=again) == 1
    for _ in range(3):
        optimise(model, optimizer, x)
        optimise(again, resumed, x)
    assert same(model.state_dict(), again.state_dict()) and type(again[0]) is nn.Linear


def test_resume_scaler_and_plain_data(folder):
    scaler, other = (torch.amp.GradScaler("cpu", init_scale=scale) for scale in (8.0, 2.0))
    scheduler = torch.optim.lr_scheduler.MultiStepLR(torch.optim.SGD([nn.Parameter(torch.ones(1))], 0.1), [2, 2, 5])
    values = {"best": 0.25, "history": [1, (2.0, None)], "kept": {"t": torch.arange(3)}}
    io.Checkpoint(folder).save(0, scaler=scaler, scheduler=scheduler, **values)
    checkpoint = io.Checkpoint(folder)
    assert checkpoint.values == {} and checkpoint.path is None
    assert checkpoint.resume(scaler=other) == 0 and checkpoint.path.name == "step-000000000000.safetensors"
    assert other.state_dict() == scaler.state_dict()
    assert repr(checkpoint.values) == repr(values)
    checkpoint.resume(scheduler=scheduler)
    assert scheduler.milestones == collections.Counter([2, 2, 5]) and type(scheduler.milestones) is collections.Counter


def test_random_states(folder):
    def draw():
        return torch.rand(1).item(), random.random(), numpy.random.rand(), numpy.random.randn()

    numpy.random.randn()  # it keeps the second of a pair
    io.Checkpoint(folder).save(1)
    expected = draw()
    io.Checkpoint(folder).resume()
    assert draw() == expected
    io.Checkpoint(folder).resume(random_states=False)
    assert draw() != expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_random_states_of_gpus(folder):
    torch.rand(1, device="cuda")
    io.Checkpoint(folder).save(1)
    expected = torch.rand(3, device="cuda")
    io.Checkpoint(folder).resume()
    assert torch.equal(torch.rand(3, device="cuda"), expected)


def test_keep(folder):
    checkpoint = io.Checkpoint(folder, keep=2)
    assert checkpoint.resume() == 0 and checkpoint.steps() == []
    for step in (1, 5, 20, 21):
        assert checkpoint.save(step).name == f"step-{step:012d}.safetensors"
    (folder / "notes.txt").write_text("mine")
    (folder / ".step-000000000021.saf.1-00.tmp").write_bytes(b"of a process that was killed")
    checkpoint.save(21)
    assert checkpoint.steps() == [20, 21] and sorted(os.listdir(folder))[0] == "notes.txt" and len(os.listdir(folder)) == 3


def test_old_ones_go_last(folder, monkeypatch):
    """A save that fails takes nothing away."""
    checkpoint = io.Checkpoint(folder, keep=1)
    checkpoint.save(1, value=1)

    def full(*args):
        raise OSError("no space left")

    monkeypatch.setattr(io.atomic.os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        checkpoint.save(2, value=2)
    monkeypatch.undo()
    assert checkpoint.steps() == [1] and len(os.listdir(folder)) == 1
    with pytest.raises(TypeError, match=r"Checkpoint.save: value is a builtins.set"):
        checkpoint.save(2, value={1})
    assert checkpoint.resume() == 1


def damage(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_damaged_newest_is_skipped(folder):
    checkpoint = io.Checkpoint(folder, keep=1)
    io.Checkpoint(folder, keep=9).save(1, value=1)
    damage(io.Checkpoint(folder, keep=9).save(2, value=2))
    (folder / "step-000000000003.safetensors").write_bytes(b"")
    with pytest.warns(UserWarning) as told:
        assert checkpoint.resume() == 1
    assert [str(one.message).split("/")[-1] for one in told] == [
        "step-000000000003.safetensors is damaged: it has 0 bytes; the one before it is tried",
        "step-000000000002.safetensors is damaged: its checksum does not fit its content; the one before it is tried",
    ]
    assert checkpoint.values == {"value": 1}
    assert checkpoint.steps() == [1, 2, 3]  # reading removes nothing
    checkpoint.save(2, value=4)
    assert checkpoint.steps() == [2] and checkpoint.resume() == 2 and checkpoint.values == {"value": 4}


def test_damaged_do_not_count(folder):
    checkpoint = io.Checkpoint(folder, keep=2)
    checkpoint.save(1)
    damage(checkpoint.save(2))
    with pytest.warns(UserWarning, match="damaged"):
        assert checkpoint.resume() == 1
    checkpoint.save(3)
    assert checkpoint.steps() == [1, 3]


def test_damaged_all(folder):
    damage(io.Checkpoint(folder).save(1))
    with pytest.warns(UserWarning), pytest.raises(io.DamagedFile, match="none of the 1 checkpoints in .* is whole"):
        io.Checkpoint(folder).resume()


def test_later_checkpoints_stay(folder):
    """A run that did not resume says so, and neither loses its own checkpoint nor the later ones."""
    io.Checkpoint(folder).save(100)
    with pytest.warns(UserWarning, match="has later checkpoints than step 1, which stay: step-000000000100"):
        (again := io.Checkpoint(folder, keep=1)).save(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again.save(2)  # it was said once
    assert io.Checkpoint(folder).steps() == [2, 100]


def test_renamed_file_is_told(folder):
    io.Checkpoint(folder).save(1).rename(folder / "step-000000000009.safetensors")
    with pytest.warns(UserWarning, match="is damaged: it is of step 1"), pytest.raises(io.DamagedFile):
        io.Checkpoint(folder).resume()


@pytest.mark.parametrize(
    "call,error,sentence",
    [
        (lambda c: io.Checkpoint(c.folder, keep=0), ValueError, "Checkpoint: keep must be an int of at least 1, got 0"),
        (lambda c: c.save(-1), ValueError, "Checkpoint.save: step must be an int of at least 0, got -1"),
        (lambda c: c.save(1.0), ValueError, "got 1.0"),
        (lambda c: c.resume(optimizer=nn.Linear(1, 1)), ValueError, "optimizer was not saved; there are model"),
        (lambda c: c.resume(model=3), TypeError, "Checkpoint.resume: model must have load_state_dict, got int"),
        (lambda c: c.resume(model=nn.Linear(3, 2)), ValueError, "'weight' is [2, 3] torch.float32, in the file [2, 2]"),
        (lambda c: c.resume(model=nn.Linear(2, 2).double()), ValueError, "torch.float64, in the file [2, 2] torch.float32"),
        (lambda c: c.resume(model=nn.Linear(2, 2, bias=False)), ValueError, "the file has 'bias', which it does not"),
        (lambda c: c.resume(model=nn.Bilinear(2, 2, 2)), ValueError, "model is not the one that was saved"),
    ],
)
def test_checkpoint_bad_input(call, error, sentence, folder):
    checkpoint, model = io.Checkpoint(folder), nn.Linear(2, 2)
    checkpoint.save(1, model=model)
    with pytest.raises(error) as raised:
        call(checkpoint)
    assert sentence in str(raised.value) and "\n" not in str(raised.value)


def test_resume_changes_nothing_when_it_refuses(folder):
    model, other = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 3))
    io.Checkpoint(folder).save(1, model=model)
    before = weights(other)
    with pytest.raises(ValueError):
        io.Checkpoint(folder).resume(model=other)
    assert same(before, other.state_dict())


def test_resume_keeps_the_parameters(folder):
    model = pylayers.Linear(2, 2)
    identities = [id(one) for one in model.parameters()]
    expected = weights(model)
    io.Checkpoint(folder).save(1, model=model)
    nn.init.zeros_(model.weight)
    io.Checkpoint(folder).resume(model=model)
    assert same(expected, model.state_dict()) and [id(one) for one in model.parameters()] == identities
