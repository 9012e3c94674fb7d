"""Every layer under every setting of a process: the eager call's outputs and gradients, or one sentence. docs/settings.md says which."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import settings
import together
import torch
from catalogue import EXAMPLES, public_layers
from harness import normal

import pylayers

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs/settings.md"
# By the name that docs/settings.md gives it. Workers are tested by test_worker.
SETTINGS = {
    "compiled": together.compiled,
    "any rows": together.compiled_for_any_rows,
    "compiled autograd": together.compiled_backward,
    "autocast": settings.autocast,
    "inference": settings.inference_mode,
    "checkpoint": settings.checkpointed,
    "func.grad": settings.functional_grad,
    "vmap": settings.vmap,
    "jvp": settings.jvp,
    "CUDA graph": settings.cuda_graph,
    "threads": settings.threads,
}
WORKERS = {"fork": "forked worker", "spawn": "spawned worker"}
# What is refused, by layer and setting, and words of the sentence.
REFUSED = {("DropoutAdd", "vmap"): "randomness"}

COMPILED = ("compiled", "any rows", "compiled autograd")
CELLS = [(setting, name) for setting in SETTINGS for name in (together.PLAIN if setting in COMPILED else EXAMPLES)]

every_example = pytest.mark.parametrize("name", EXAMPLES)
no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: CUDA graphs are of CUDA")


@pytest.fixture(autouse=True)
def leave_the_process_as_it_was(one_thread):
    state = torch.get_rng_state()
    yield
    torch.set_rng_state(state)


@pytest.mark.parametrize("setting,name", [pytest.param(*one, marks=no_gpu if one[0] == "CUDA graph" else ()) for one in CELLS])
def test_layer(setting, name):
    words = REFUSED.get((name, setting))
    if words is None:
        return SETTINGS[setting](name)
    with pytest.raises(RuntimeError, match=words) as raised:
        SETTINGS[setting](name)
    assert "\n" not in str(raised.value).strip()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@every_example
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_autocast_on_a_gpu(dtype, name):
    settings.autocast(name, "cuda", dtype)


@pytest.fixture(scope="module")
def from_workers(tmp_path_factory):
    paths = [str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    told = tmp_path_factory.mktemp("workers") / "told"
    with open(told, "w") as out:  # no pipe: a worker that hangs would hold it open
        found = subprocess.run([sys.executable, HERE / "workers.py"], stdout=out, timeout=120, env=environment, check=False)
    assert found.returncode == 0
    return json.loads(told.read_text())


@every_example
@pytest.mark.parametrize("start", WORKERS)
def test_worker(start, name, from_workers):
    assert from_workers[start][name] == ""


def test_every_public_layer_is_an_example():
    assert {name.partition(",")[0] for name in EXAMPLES} == set(public_layers())


def table() -> tuple[list[str], list[tuple[list[str], list[str]]]]:
    """The settings, and by row the layers and a cell for each setting."""
    lines = [line.strip("| \n").split("|") for line in DOCS.read_text().splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line] for line in lines]
    return cells[0][1:], [(re.findall(r"`(\w+)`", first), rest) for first, *rest in cells[2:]]


def test_docs_say_what_is_refused():
    columns, rows = table()
    assert set(columns) == {*SETTINGS, *WORKERS.values()}
    assert sorted(name for names, _ in rows for name in names) == sorted(public_layers())
    assert {cell for _, cells in rows for cell in cells} <= {"yes", "refused"}
    told = {(name, column) for names, cells in rows for name in names for column, cell in zip(columns, cells, strict=True) if cell == "refused"}
    assert told == set(REFUSED)


# ---- settings together, and what remembers a call


def all_layers(call=lambda net: net, backend=None, dtype=None):
    """Outputs and gradients of all layers, each called through `call`."""
    net = together.Together(together.PLAIN)
    with torch.autocast("cpu", enabled=dtype is not None, dtype=dtype or torch.bfloat16):
        return settings.run(net, net.inputs(settings.ROWS), call(net))


def checkpointing(net):
    return lambda *inputs: torch.utils.checkpoint.checkpoint(net, *inputs, use_reentrant=False)


def test_checkpoint_under_autocast():
    settings.same(all_layers(checkpointing, dtype=torch.bfloat16), all_layers(dtype=torch.bfloat16))


def test_compiled_checkpoint():
    """Random layers draw the same numbers again."""
    torch.compiler.reset()
    compiled = all_layers(lambda net: torch.compile(checkpointing(net), fullgraph=True, dynamic=False, backend="aot_eager"))
    net = together.Together(together.PLAIN)
    for name, found in net.of_each(compiled).items():
        together.as_eager(name, found)


def test_functional_call_takes_constants():
    layer, x = pylayers.FixedLinear(3, 4), normal(5, 3)
    other = {key: one + 1 for key, one in layer.state_dict().items()}
    expected = torch.nn.functional.linear(x, other["weight"], other["bias"])
    torch.testing.assert_close(torch.func.functional_call(layer, other, (x,)), expected)
    weights = torch.func.grad(lambda state: torch.func.functional_call(layer, state, (x,)).sum())(other)["weight"]
    torch.testing.assert_close(weights, x.sum(0).expand(4, 3))


@pytest.mark.parametrize("scaling", [{}, {"rope_type": "dynamic", "factor": 2.0}], ids=["plain", "dynamic"])
def test_tables_of_inference_serve_training(scaling):
    """What a call of inference makes longer is saved by later calls."""
    layer, q = pylayers.RotaryEmbedding(8, 4, scaling=scaling), normal(1, 30, 2, 8)
    with torch.inference_mode():
        expected = layer(q, q)[0]
    assert not layer.cos.is_inference()
    leaf = q.clone().requires_grad_()
    y = layer(leaf, q)[0]
    y.square().sum().backward()
    assert torch.equal(y, expected)
    torch.testing.assert_close(leaf.grad, 2 * q)  # a rotation


@pytest.fixture
def eager_threads():
    """They take turns after a microsecond, not after five thousand."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("eager_threads")
def test_tables_that_threads_make_longer():
    lengths = [5, 9, 17, 33, 65, 129, 200, 6]
    whole = pylayers.RotaryEmbedding(8, 256)
    q = {length: normal(1, length, 2, 8) for length in lengths}
    expected = {length: whole(one, one)[0] for length, one in q.items()}
    for _ in range(50):
        layer = pylayers.RotaryEmbedding(8, 4)
        with settings.ThreadPoolExecutor(len(lengths)) as pool:
            found = list(pool.map(lambda one: layer(one, one)[0], q.values(), timeout=60))  # noqa: B023
        assert all(torch.equal(*pair) for pair in zip(found, expected.values(), strict=True))


@pytest.mark.usefixtures("eager_threads")
@pytest.mark.parametrize("name", [name for name in EXAMPLES if name.startswith("Lazy")])
def test_threads_that_make_the_first_call(name):
    for _ in range(10):
        layer, inputs = EXAMPLES[name].make(), EXAMPLES[name].inputs(settings.ROWS)
        barrier = settings.Barrier(settings.THREADS)

        def call():
            return settings.named(settings.reals(layer(*inputs)))  # noqa: B023

        def work(_):
            barrier.wait(timeout=60)  # noqa: B023
            return call()  # noqa: B023

        with settings.ThreadPoolExecutor(settings.THREADS) as pool:
            found = list(pool.map(work, range(settings.THREADS), timeout=60))
        expected = call()
        for one in found:
            settings.same(one, expected)


def test_dropout_add_in_threads():
    """Its masks come in the order of the calls; each call has one of its own, and its backward has the same."""
    layer, zero = pylayers.DropoutAdd(0.5), torch.zeros(64, 64)

    def work(_):
        x = torch.ones(64, 64, requires_grad=True)
        y = layer(x, zero)
        return y.detach(), *torch.autograd.grad(y.sum(), x)

    with settings.ThreadPoolExecutor(settings.THREADS) as pool:
        found = list(pool.map(work, range(40), timeout=60))
    assert all(torch.equal(y, gradient) for y, gradient in found)
    assert len({y.numpy().tobytes() for y, _ in found}) == 40


def test_inductor():
    """One net of several layers, through the compiler that makes code."""
    net = torch.nn.Sequential(
        pylayers.RMSNorm(8), pylayers.Parallel(*(pylayers.Linear(8, 4, activation="gelu") for _ in range(2))), pylayers.HalveUntil(2.0),
        pylayers.FixedLinear(8, 8), pylayers.GatedMLP(8, 12), pylayers.LogSoftmax(-1),
    )  # fmt: skip
    loss, target, found = pylayers.LinearCrossEntropyLoss(8, 6), torch.arange(5), []

    def step(x):
        return loss(net(x) + x.sin(), target)

    torch.compiler.reset()
    for call in (step, torch.compile(step, fullgraph=True)):
        x = normal(5, 8).requires_grad_()
        y = call(x)
        found.append([y, *torch.autograd.grad(y, [x, *net.parameters(), *loss.parameters()])])
    torch.testing.assert_close(*found)
    torch.compiler.reset()
