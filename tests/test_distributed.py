"""Several processes on this machine, on gloo: each check runs in all of them, and is a test here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from processes import checks, training
from processes.worker import LACKING

TESTS = Path(__file__).parent
LIMIT = 300  # seconds: nothing here may hang


def start(folder: Path, ranks: int, names: list[str]) -> list[subprocess.Popen]:
    folder.mkdir()
    path = os.pathsep.join([str(TESTS), *sys.path])
    command = [sys.executable, "-m", "processes.worker", str(folder)]
    return [
        subprocess.Popen([*command, str(rank), str(ranks), *names], env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for rank in range(ranks)
    ]  # fmt: skip


def finish(processes: list[subprocess.Popen]) -> str:
    try:
        return "\n".join(process.communicate(timeout=LIMIT)[0] for process in processes)
    finally:
        for process in processes:
            process.kill()


def told(folder: Path, ranks: int, names: list[str]) -> dict[str, str]:
    """What went wrong in each check, on the rank that says most."""
    output = finish(start(folder, ranks, names))
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("told-*.json"))]
    assert len(found) == ranks, output
    return {name: max((one[name] for one in found), key=len) for name in names}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def on_four(folder):
    return told(folder / "four", 4, checks.FOUR)


@pytest.fixture(scope="module")
def on_two(folder, on_four):  # which saved the checkpoint that two load
    return told(folder / "two", 2, [*checks.TWO, "loads_checkpoint"])


def assert_passed(told: str) -> None:
    if told.startswith(LACKING):
        pytest.skip(told.removeprefix(LACKING))
    assert told == ""


@pytest.mark.parametrize("name", checks.FOUR)
def test_four_ranks(name, on_four):
    assert_passed(on_four[name])


@pytest.mark.parametrize("name", [*checks.TWO, "loads_checkpoint"])
def test_two_ranks(name, on_two):
    assert_passed(on_two[name])


def test_a_checkpoint_of_four_ranks_is_loaded_by_one_process(folder, on_four):
    model = training.model()
    state = model.state_dict()
    dcp.load(state, checkpoint_id=folder / "checkpoint", no_dist=True)
    for name, value in torch.load(folder / "whole.pt").items():
        assert torch.equal(state[name], value)


def test_a_rank_that_dies_is_an_error_of_the_others(folder):
    output = finish(start(folder / "dies", 2, ["dies"]))
    found = json.loads((folder / "dies" / "told-0.json").read_text())
    assert "Error" in found["dies"] and not (folder / "dies" / "told-1.json").exists(), output


def test_ops_learn_shards_when_they_first_meet_one():
    code = """
import torch, torch.distributed as dist, pylayers, sys
from torch.distributed.tensor import Shard, distribute_tensor
assert "pylayers.distributed" not in sys.modules and "torch.distributed.tensor._ops" in sys.modules
dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
x = distribute_tensor(torch.randn(4, 8), dist.init_device_mesh("cpu", (1,)), [Shard(0)])
print(pylayers.functional.rms_norm(x, (8,)).placements, "pylayers.distributed" in sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT)
    assert result.stdout.strip() == "(Shard(dim=0),) True", result.stderr


def test_importing_does_not_import_torch_distributed_tensor():
    code = "import pylayers, sys; assert not any(name.startswith('torch.distributed.tensor') for name in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=LIMIT)


def test_every_op_has_a_rule():
    """Of those that DTensor meets."""
    pytest.importorskip("torch.distributed.tensor")
    import pylayers.distributed  # noqa: F401
    from torch.distributed.tensor import DTensor

    dispatcher = DTensor._op_dispatcher
    known = {*dispatcher.sharding_propagator.op_strategy_funcs, *dispatcher._custom_op_handlers}
    ops = {getattr(torch.ops.pylayers, schema.name.split("::")[1]).default
           for schema in torch._C._jit_get_all_schemas() if schema.name.startswith("pylayers::")}  # fmt: skip
    assert ops and not [op for op in ops if op not in known]
