"""Whole models, trained by several processes."""

from __future__ import annotations

import copy
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import patch

import pylayers
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.nn.functional as F
from pylayers.benchmarks import models
from pylayers.benchmarks.language_model import OURS, Config, LanguageModel, build
from pylayers.benchmarks.parallelism import own_rows, sharded, tensor_parallel
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Shard
from torch.distributed.tensor.experimental import context_parallel
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from processes import sharded_ops
from processes.registry import FOUR, TWO, check, equal, raises

CPU = torch.device("cpu")
CONFIG = Config(dim=16, hidden=24, heads=4, blocks=2, tokens=8, batch=4)


def windows(count: int = 3) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(8)
    for _ in range(count):
        yield torch.randint(256, (CONFIG.batch, CONFIG.tokens + 1), generator=generator)


def model() -> LanguageModel:
    return build(CONFIG, OURS, CPU).double()


Share = Callable[[Tensor, Tensor], AbstractContextManager[tuple[Tensor, Tensor]]]


def everything(tokens: Tensor, following: Tensor) -> AbstractContextManager[tuple[Tensor, Tensor]]:
    return nullcontext((tokens, following))


def rows(mesh: DeviceMesh) -> Share:
    return lambda *both: nullcontext(tuple(own_rows(one, "fsdp", mesh) for one in both))


def trained(one: nn.Module, share: Share = everything) -> list[float]:
    """Losses of three steps, each on what `share` gives this rank of a batch."""
    optimizer, losses = torch.optim.AdamW(one.parameters(), lr=1e-2, foreach=False), []
    for batch in windows():
        with share(batch[:, :-1], batch[:, 1:]) as (tokens, following):
            loss = one(tokens, following)
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(sharded_ops.whole(loss.detach()).item())
    return losses


def same_training(one: nn.Module, mesh: DeviceMesh, share: Share = everything) -> None:
    """As one process: losses, and parameters after three steps."""
    alone = model()
    expected = trained(alone)
    found = torch.tensor(trained(one, share), dtype=torch.float64)
    dist.all_reduce(found)
    found /= mesh.size()
    equal(found, torch.tensor(expected, dtype=torch.float64), "losses", rtol=1e-7, atol=1e-9)
    state = {name.removeprefix("module."): value for name, value in one.state_dict().items()}
    for name, value in alone.state_dict().items():
        equal(state[name], value, name, rtol=1e-6, atol=1e-8)


@check(TWO)
def ddp_trains_as_one_process(mesh: DeviceMesh, folder: Path) -> None:
    same_training(DistributedDataParallel(model()), mesh, rows(mesh))


@check(TWO, FOUR)
def fsdp_trains_as_one_process(mesh: DeviceMesh, folder: Path) -> None:
    same_training(sharded(model(), mesh), mesh, rows(mesh))


class Collectives(TorchDispatchMode):
    """How often each was called. CommDebugMode fails on these modules with torch 2.11."""

    def __enter__(self) -> Counter[str]:
        self.counts: Counter[str] = Counter()
        super().__enter__()
        return self.counts

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if DTensor in types:
            return NotImplemented  # which calls them
        if function.namespace == "_c10d_functional" and not any(one in str(function) for one in ("wait", "wrap")):
            self.counts[str(function)] += 1
        return function(*args, **(kwargs or {}))


@check(TWO, FOUR)
def tensor_parallel_trains_as_one_process(mesh: DeviceMesh, folder: Path) -> None:
    """And the sharded norms, rotation and gate move nothing: per block two gathers and two scatters of tokens, each way."""
    one = tensor_parallel(model(), mesh, CONFIG)
    batch = next(windows(1))
    with Collectives() as counts:
        one(batch[:, :-1], batch[:, 1:])
    gathers = sum(count for op, count in counts.items() if "gather" in op)
    scatters = sum(count for op, count in counts.items() if "scatter" in op)
    # The last norm gathers tokens, and the loss a few numbers for each row, and how many rows there are.
    if (gathers, scatters) != (2 * CONFIG.blocks + 3, 2 * CONFIG.blocks + 1) or sum(counts.values()) != gathers + scatters:
        raise AssertionError(f"{counts}")
    same_training(tensor_parallel(model(), mesh, CONFIG), mesh)


@contextmanager
def tokens_of(rotary: nn.Module, mesh: DeviceMesh, tokens: Tensor, following: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Some tokens of every sequence and the rows of the rotary tables for them, cut by torch, which gives a rank an early and a late
    piece. Its attention between ranks needs a GPU; here each token asks all keys, which are gathered."""
    attend, position = F.scaled_dot_product_attention, torch.arange(tokens.shape[1])
    tokens, following = tokens.clone(), following.clone()

    def of_all(shard: Tensor, dim: int) -> Tensor:
        return DTensor.from_local(shard, mesh, [Shard(dim)], run_check=False).full_tensor(grad_placements=[Partial()])

    def to_all(q: Tensor, k: Tensor, v: Tensor, is_causal: bool) -> Tensor:
        return attend(q, of_all(k, 2), of_all(v, 2), attn_mask=position[:, None] >= of_all(position, 0))

    buffers = {tokens: 1, following: 1, position: 0, rotary.cos: 0, rotary.sin: 0}
    with context_parallel(mesh, buffers=[*buffers], buffer_seq_dims=[*buffers.values()]), patch.object(F, "scaled_dot_product_attention", to_all):
        yield tokens, following


@check(TWO, FOUR)
def context_parallel_trains_as_one_process(mesh: DeviceMesh, folder: Path) -> None:
    one = sharded(model(), mesh)
    same_training(one, mesh, partial(tokens_of, one.blocks[0].attention.rotary, mesh))


@check(TWO)
def tensor_parallel_compiles(mesh: DeviceMesh, folder: Path) -> None:
    """As one graph, collectives included."""
    config = replace(CONFIG, blocks=1)
    eager, compiled = (tensor_parallel(build(config, OURS, CPU).double(), mesh, config) for _ in range(2))
    batch = next(windows(1))
    call = torch.compile(compiled, backend="aot_eager", fullgraph=True)
    for one in (eager, call):
        one(batch[:, :-1], batch[:, 1:]).backward()
    for (name, one), other in zip(eager.named_parameters(), compiled.parameters(), strict=True):
        equal(other.grad, one.grad.full_tensor(), name)


@check(TWO)
def fsdp_in_mixed_precision(mesh: DeviceMesh, folder: Path) -> None:
    expected, found = trained(build(CONFIG, OURS, CPU)), trained(sharded(build(CONFIG, OURS, CPU), mesh, bfloat16=True))
    equal(torch.tensor(found), torch.tensor(expected), rtol=2e-2, atol=0)


@check(TWO)
def fsdp_from_meta(mesh: DeviceMesh, folder: Path) -> None:
    """Every parameter is initialised by its own layer, on its shard."""
    layers = {"norm": pylayers.RMSNorm(8), "mlp": pylayers.GatedMLP(8, 12), "loss": pylayers.LinearCrossEntropyLoss(8, 30)}
    with torch.device("meta"):
        one = nn.ModuleDict({"norm": pylayers.RMSNorm(8), "mlp": pylayers.GatedMLP(8, 12), "loss": pylayers.LinearCrossEntropyLoss(8, 30)})
    for layer in one.values():
        fully_shard(layer, mesh=mesh)
    one.to_empty(device="cpu")
    for layer in one.values():
        layer.reset_parameters()
    for name, value in nn.ModuleDict(layers).state_dict().items():
        found = one.state_dict()[name].full_tensor()
        if found.shape != value.shape or abs(float(found.std() - value.std())) > 0.1 or not bool(found.isfinite().all()):
            raise AssertionError(f"{name}: {found}")


def tied(one: LanguageModel) -> LanguageModel:
    one.loss.linear.weight = one.embedding.weight
    return one


@check(TWO)
def ties_under_tensor_parallel(mesh: DeviceMesh, folder: Path) -> None:
    """Tied once more, as each style gives its module a parameter of its own."""
    expected, one = trained(tied(model())), tensor_parallel(tied(model()), mesh, CONFIG)
    equal(torch.tensor(trained(tied(one))), torch.tensor(expected), rtol=1e-7, atol=1e-9)


@check(TWO)
def ties_under_fsdp(mesh: DeviceMesh, folder: Path) -> None:
    alone, one = tied(model()), sharded(tied(model()), mesh)
    if one.loss.linear.weight is not one.embedding.weight:
        raise AssertionError("the tie is lost")
    expected, found = trained(alone), torch.tensor(trained(one, rows(mesh)), dtype=torch.float64)
    dist.all_reduce(found)
    equal(found / mesh.size(), torch.tensor(expected, dtype=torch.float64), rtol=1e-7, atol=1e-9)


@check(TWO)
def lazy_layers_under_ddp(mesh: DeviceMesh, folder: Path) -> None:
    lazy = nn.Sequential(pylayers.LazyLinear(8, activation="relu"), pylayers.LazyRMSNorm())
    raises(RuntimeError, "uninitialized parameters", lambda: DistributedDataParallel(lazy))
    torch.manual_seed(9)
    lazy(torch.randn(2, 4))
    one = DistributedDataParallel(lazy)
    one(torch.randn(2, 4)).sum().backward()
    if any(parameter.grad is None for parameter in lazy.parameters()):
        raise AssertionError("a parameter has no gradient")


@check(TWO)
def converted_models_under_fsdp_and_ddp(mesh: DeviceMesh, folder: Path) -> None:
    """Of transformers, with a head whose logits are not computed: the losses of the original in one process."""
    original, inputs = models.made("llama", models.TINY, dtype=torch.float64)
    mine = {name: own_rows(one, "fsdp", mesh) for name, one in inputs.items()}

    def losses(one: nn.Module, given: dict) -> Tensor:
        optimizer, found = torch.optim.SGD(one.parameters(), lr=0.1), []
        for _ in range(3):
            loss = one(**given).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            found.append(loss.detach())
        return torch.stack(found)

    def spread_by_fsdp(one: nn.Module) -> nn.Module:
        for layer in one.model.layers:
            fully_shard(layer, mesh=mesh)
        return fully_shard(one, mesh=mesh)

    expected = losses(copy.deepcopy(original), inputs)
    for spread in (spread_by_fsdp, DistributedDataParallel):
        one = copy.deepcopy(original)
        pylayers.convert(one)
        found = losses(spread(one), mine)
        dist.all_reduce(found)
        equal(found / mesh.size(), expected, str(spread), rtol=1e-7, atol=1e-9)


@check(FOUR)
def checkpoint_is_saved(mesh: DeviceMesh, folder: Path) -> None:
    one = sharded(model(), mesh)
    trained(one, rows(mesh))
    dcp.save(get_model_state_dict(one), checkpoint_id=folder.parent / "checkpoint")
    whole = {name: value.full_tensor() for name, value in one.state_dict().items()}
    if dist.get_rank() == 0:
        torch.save(whole, folder.parent / "whole.pt")


@check()
def loads_checkpoint(mesh: DeviceMesh, folder: Path) -> None:
    """Of four ranks, on as many as there are."""
    for make in (sharded, partial(tensor_parallel, config=CONFIG)):
        one = make(model(), mesh)
        state = get_model_state_dict(one)
        dcp.load(state, checkpoint_id=folder.parent / "checkpoint")
        set_model_state_dict(one, state)
        for name, value in torch.load(folder.parent / "whole.pt").items():
            equal(one.state_dict()[name], value, name, rtol=0, atol=0)


@check()
def dies(mesh: DeviceMesh, folder: Path) -> None:
    """One rank leaves in the middle of training; the others are told."""
    one = sharded(model(), mesh)
    trained(one, rows(mesh))
    if dist.get_rank() == 1:
        os._exit(3)
    trained(one, rows(mesh))
