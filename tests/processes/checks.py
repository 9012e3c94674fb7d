"""What several processes are to compute, beside what one computes."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.parallel import PrepareModuleInput, parallelize_module
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

import pylayers
from processes import sharded_ops
from pylayers.benchmarks import models
from pylayers.benchmarks.language_model import OURS, Config, LanguageModel, build
from pylayers.benchmarks.parallelism import own_rows, sharded, tensor_parallel
from pylayers.check import compare
from pylayers.distributed import ColwiseParallel, RowwiseParallel, VocabularyParallel

Check = Callable[[DeviceMesh, Path], None]
CHECKS: dict[str, Check] = {f"op {name}": partial(lambda mesh, folder, name: sharded_ops.check(name, mesh), name=name) for name in sharded_ops.CASES}
TWO, FOUR = [*CHECKS], []  # on how many ranks
CPU = torch.device("cpu")
CONFIG = Config(dim=16, hidden=24, heads=4, blocks=2, tokens=8, batch=4)


def check(ranks: list[list[str]]) -> Callable[[Check], Check]:
    def add(function: Check) -> Check:
        CHECKS[function.__name__] = function
        for names in ranks:
            names.append(function.__name__)
        return function

    return add


def find(name: str) -> Check:
    return CHECKS[name]


def equal(actual: Tensor, expected: Tensor, what: str = "", **close: float) -> None:
    torch.testing.assert_close(sharded_ops.whole(actual), expected, msg=lambda told: f"{what}: {told}", **(close or sharded_ops.CLOSE))


def raises(kind: type[Exception], text: str, call: Callable[[], object]) -> None:
    try:
        call()
    except kind as error:
        if text not in str(error):
            raise AssertionError(f"says {error}") from None
    else:
        raise AssertionError(f"no {kind.__name__}")


# ---- losses of sharded classes


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that an op made, and bytes that this rank gave to gathers."""

    def __init__(self) -> None:
        super().__init__()
        self.elements, self.sent = 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if "all_gather" in str(function):
            self.sent += args[0].numel() * args[0].element_size()
        for one in torch.utils._pytree.tree_leaves(result):
            if isinstance(one, Tensor) and not isinstance(one, DTensor):
                self.elements = max(self.elements, one.numel())
        return result


ROWS, CLASSES, FEATURES = 12, 21, 6
OPTIONS = (
    {},
    {"label_smoothing": 0.2, "weight": True},
    {"label_smoothing": 1.0},
    {"z_loss": 0.1, "softcap": 2.0, "label_smoothing": 0.1},
    {"reduction": "none", "weight": True},
    {"reduction": "sum", "ignore_index": 3},
)


def rows_and_classes() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    target = torch.randint(CLASSES, (ROWS,))
    target[2] = -100
    target[5] = 3
    double = partial(torch.randn, dtype=torch.float64)
    return double(ROWS, CLASSES) * 3, target, double(CLASSES).exp(), double(ROWS, FEATURES)


def with_weight(options: dict, weight: Tensor) -> dict:
    options = dict(options)
    target = {} if "ignore_index" in options else {"ignore_index": -100}
    return {**options, **target, **({"weight": weight} if options.pop("weight", False) else {})}


def ignoring(target: Tensor, options: dict) -> Tensor:
    return target.masked_fill(target == -100, 3) if options.get("ignore_index") == 3 else target


@check([TWO, FOUR])
def cross_entropy_of_sharded_classes(mesh: DeviceMesh, folder: Path) -> None:
    logits, target, weight, _ = rows_and_classes()
    for given in OPTIONS:
        options = with_weight(given, weight)
        t = ignoring(target, options)
        plain = logits.clone().requires_grad_()
        expected = pylayers.functional.cross_entropy(plain, t, **options)
        incoming = torch.linspace(1, 2, expected.numel(), dtype=torch.float64).view(expected.shape)
        expected.backward(incoming)
        shard = distribute_tensor(logits, mesh, [Shard(1)], src_data_rank=None).requires_grad_()
        with Largest() as largest, CommDebugMode() as talk:
            loss = pylayers.functional.cross_entropy(shard, t, **options)
        # And on a CPU the number of rows, so that ranks agree on it.
        if largest.sent != (7 if options.get("label_smoothing") else 5) * ROWS * 8 + 8 or talk.get_total_counts() != 2:
            raise AssertionError(f"{given}: {largest.sent} bytes in {dict(talk.get_comm_counts())}")
        if largest.elements >= max(ROWS * CLASSES, 7 * mesh.size() * ROWS + 1):
            raise AssertionError("a rank has logits of all classes")
        with CommDebugMode() as talk:
            loss.backward(distribute_tensor(incoming, mesh, [Replicate()], src_data_rank=None))
        equal(loss, expected, f"{given}")
        equal(shard.grad, plain.grad, f"{given}: gradient")
        if talk.get_total_counts() or shard.grad.placements != (Shard(1),):
            raise AssertionError(f"{given}: the backward moves {dict(talk.get_comm_counts())}")


@check([TWO])
def cross_entropy_of_sharded_classes_of_images(mesh: DeviceMesh, folder: Path) -> None:
    torch.manual_seed(2)
    logits, target = torch.randn(2, CLASSES, 3, dtype=torch.float64), torch.randint(CLASSES, (2, 3))
    plain, shard = logits.clone().requires_grad_(), distribute_tensor(logits, mesh, [Shard(1)], src_data_rank=None).requires_grad_()
    expected, loss = (pylayers.CrossEntropyLoss()(one, target) for one in (plain, shard))
    equal(loss, expected)
    expected.backward(), loss.backward()
    equal(shard.grad, plain.grad)
    raises(IndexError, "target must be between 0 and 20", lambda: pylayers.CrossEntropyLoss()(shard, target + CLASSES))
    few = distribute_tensor(torch.randn(2, 1), mesh, [Shard(1)], src_data_rank=None)
    raises(ValueError, "every rank must have a class", lambda: pylayers.CrossEntropyLoss()(few, torch.tensor([0, 0])))


@check([TWO, FOUR])
def linear_cross_entropy_of_sharded_classes(mesh: DeviceMesh, folder: Path) -> None:
    _, target, weight, hidden = rows_and_classes()
    torch.manual_seed(3)
    matrix, bias = torch.randn(CLASSES, FEATURES, dtype=torch.float64), torch.randn(CLASSES, dtype=torch.float64)
    for given in OPTIONS:
        for rows in (Replicate(), Shard(0)):
            options = with_weight(given, weight)
            t = ignoring(target, options)
            plain = [one.clone().requires_grad_() for one in (hidden, matrix, bias)]
            expected = pylayers.functional.linear_cross_entropy(plain[0], plain[1], t, linear_bias=plain[2], **options)
            incoming = torch.linspace(1, 2, expected.numel(), dtype=torch.float64).view(expected.shape)
            expected.backward(incoming)
            placements = (rows, Shard(0), Shard(0))
            shards = [distribute_tensor(one, mesh, [place], src_data_rank=None).requires_grad_()
                      for one, place in zip((hidden, matrix, bias), placements, strict=True)]  # fmt: skip
            with Largest() as largest:
                loss = pylayers.functional.linear_cross_entropy(shards[0], shards[1], t, linear_bias=shards[2], chunk_rows=5, **options)
                loss.backward(distribute_tensor(incoming, mesh, [Replicate()], src_data_rank=None))
            if largest.elements >= max(5 * CLASSES, ROWS * FEATURES * mesh.size(), 7 * mesh.size() * ROWS) + 1:
                raise AssertionError(f"a rank has a tensor of {largest.elements} numbers")
            equal(loss, expected, f"{given} {rows}")
            for shard, one, name in zip(shards, plain, ("input", "weight", "bias"), strict=True):
                equal(shard.grad, one.grad, f"{given} {rows}: gradient of {name}")


@check([TWO])
def losses_of_sharded_classes_in_16_bits(mesh: DeviceMesh, folder: Path) -> None:
    """Within twice the error of plain torch."""
    torch.manual_seed(4)
    hidden, matrix, target = torch.randn(64, 32).bfloat16(), torch.randn(50, 32).bfloat16(), torch.randint(50, (64,))
    exact = [one.double().requires_grad_() for one in (hidden, matrix)]
    nn.functional.cross_entropy(exact[0] @ exact[1].t(), target).backward()
    plain = [one.clone().requires_grad_() for one in (hidden, matrix)]
    nn.functional.cross_entropy((plain[0] @ plain[1].t()).float(), target).backward()
    shards = [distribute_tensor(one, mesh, [place], src_data_rank=None).requires_grad_() for one, place in ((hidden, Replicate()), (matrix, Shard(0)))]
    pylayers.functional.linear_cross_entropy(shards[0], shards[1], target).backward()
    for shard, one, true in zip(shards, plain, exact, strict=True):
        if shard.grad.dtype != torch.bfloat16:
            raise AssertionError(f"a gradient of {shard.grad.dtype}")
        found = compare(shard.grad.full_tensor(), true.grad, one.grad)
        if not found.passed:
            raise AssertionError(f"error {found.error}, allowed {found.bound}")


@check([FOUR])
def classes_and_rows_on_two_dimensions(mesh: DeviceMesh, folder: Path) -> None:
    grid = dist.init_device_mesh("cpu", (2, 2), mesh_dim_names=("rows", "classes"))
    logits, target, _, hidden = rows_and_classes()
    matrix = torch.randn(CLASSES, FEATURES, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    plain = [one.clone().requires_grad_() for one in (logits, hidden, matrix)]
    expected = pylayers.functional.cross_entropy(plain[0], target) + pylayers.functional.linear_cross_entropy(plain[1], plain[2], target)
    expected.backward()
    put = partial(distribute_tensor, device_mesh=grid, src_data_rank=None)
    shards = [put(logits, placements=[Shard(0), Shard(1)]), put(hidden, placements=[Shard(0), Replicate()]), put(matrix, placements=[Replicate(), Shard(0)])]
    shards = [one.requires_grad_() for one in shards]
    rows = put(target, placements=[Shard(0), Replicate()])
    loss = pylayers.functional.cross_entropy(shards[0], rows) + pylayers.functional.linear_cross_entropy(shards[1], shards[2], rows)
    loss.backward()
    equal(loss, expected)
    for shard, one in zip(shards, plain, strict=True):
        equal(shard.grad, one.grad, f"{shard.placements}")


# ---- layers


@check([TWO, FOUR])
def gated_mlp_by_columns_and_rows(mesh: DeviceMesh, folder: Path) -> None:
    """One sum over the ranks forward, one backward."""
    torch.manual_seed(5)
    plain = pylayers.GatedMLP(8, 12, bias=True, dtype=torch.float64)
    x = torch.randn(3, 8, dtype=torch.float64, requires_grad=True)
    plain(x).sum().backward()
    torch.manual_seed(5)
    own = {"": PrepareModuleInput(input_layouts=(Replicate(),), desired_input_layouts=(Replicate(),)), "gate_proj": ColwiseParallel(),
           "up_proj": ColwiseParallel(), "down_proj": RowwiseParallel()}  # fmt: skip
    split = parallelize_module(pylayers.GatedMLP(8, 12, bias=True, dtype=torch.float64), mesh, own)
    given = x.detach().clone().requires_grad_()
    with CommDebugMode() as forward:
        y = split(given)
    with CommDebugMode() as backward:
        y.sum().backward()
    equal(y, plain(x).detach())
    equal(given.grad, x.grad)
    for (name, one), other in zip(plain.named_parameters(), split.parameters(), strict=True):
        equal(other.grad, one.grad, name)
    if (forward.get_total_counts(), backward.get_total_counts()) != (1, 1):
        raise AssertionError(f"{dict(forward.get_comm_counts())}, {dict(backward.get_comm_counts())}")


@check([TWO])
def styles_refuse(mesh: DeviceMesh, folder: Path) -> None:
    one = partial(parallelize_module, device_mesh=mesh)
    raises(ValueError, "must be a multiple of the 2 ranks, got 3", lambda: one(pylayers.Linear(4, 3), parallelize_plan=ColwiseParallel()))
    raises(ValueError, "in_features of Linear", lambda: one(pylayers.Linear(3, 4), parallelize_plan=RowwiseParallel()))
    raises(ValueError, "use ColwiseParallel", lambda: one(pylayers.Linear(4, 4, activation="gelu"), parallelize_plan=RowwiseParallel()))
    raises(TypeError, "must be a LinearCrossEntropyLoss", lambda: one(pylayers.Linear(4, 4), parallelize_plan=VocabularyParallel()))
    raises(NotImplementedError, "", lambda: one(pylayers.RMSNorm(4), parallelize_plan=ColwiseParallel()))


@check([TWO])
def dropout_differs_between_shards(mesh: DeviceMesh, folder: Path) -> None:
    torch.manual_seed(6)
    ones, zeros = torch.ones(40, 50), torch.zeros(40, 50)
    for place in (Shard(0), Shard(1), Replicate()):
        x, r = (distribute_tensor(one, mesh, [place], src_data_rank=None).requires_grad_() for one in (ones, zeros))
        y = pylayers.functional.dropout_add(x, r, 0.25)
        y.sum().backward()
        whole = y.full_tensor().detach()
        equal(x.grad, whole, f"{place}: the mask of the backward")
        mine = y.to_local().detach()
        others = [torch.empty_like(mine) for _ in range(mesh.size())]
        dist.all_gather(others, mine.contiguous())
        same = torch.equal(others[0], others[1])
        if same != (place == Replicate()) or not 0.2 < (whole == 0).double().mean() < 0.3:
            raise AssertionError(f"{place}: masks of ranks are {'the same' if same else 'not the same'}")


@check([TWO])
def two_sided_uniform_draws_what_one_process_draws(mesh: DeviceMesh, folder: Path) -> None:
    torch.manual_seed(7)
    whole = torch.empty(6, 10)
    pylayers.init.two_sided_uniform_(whole)
    torch.manual_seed(7)
    shard = distribute_tensor(torch.zeros(6, 10), mesh, [Shard(1)], src_data_rank=None)
    pylayers.init.two_sided_uniform_(shard)
    equal(shard, whole)


# ---- a whole model


def windows(count: int = 3) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(8)
    for _ in range(count):
        yield torch.randint(256, (CONFIG.batch, CONFIG.tokens + 1), generator=generator)


def model() -> LanguageModel:
    return build(CONFIG, OURS, CPU).double()


def trained(one: nn.Module, rows: Callable[[Tensor], Tensor] = lambda batch: batch) -> list[float]:
    optimizer, losses = torch.optim.AdamW(one.parameters(), lr=1e-2, foreach=False), []
    for batch in windows():
        own = rows(batch)
        loss = one(own[:, :-1], own[:, 1:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(sharded_ops.whole(loss.detach()).item())
    return losses


def same_training(one: nn.Module, kind: str, mesh: DeviceMesh) -> None:
    """Losses, and parameters after three steps."""
    alone = model()
    expected = trained(alone)
    found = torch.tensor(trained(one, lambda batch: own_rows(batch, kind, mesh)), dtype=torch.float64)
    if kind != "tp":
        dist.all_reduce(found)
        found /= mesh.size()
    equal(found, torch.tensor(expected, dtype=torch.float64), "losses", rtol=1e-7, atol=1e-9)
    state = {name.removeprefix("module."): value for name, value in one.state_dict().items()}
    for name, value in alone.state_dict().items():
        equal(state[name], value, name, rtol=1e-6, atol=1e-8)


@check([TWO])
def ddp_trains_as_one_process(mesh: DeviceMesh, folder: Path) -> None:
    same_training(DistributedDataParallel(model()), "ddp", mesh)


@check([TWO, FOUR])
def fsdp_trains_as_one_process(mesh: DeviceMesh, folder: Path) -> None:
    same_training(sharded(model(), mesh), "fsdp", mesh)


@check([TWO, FOUR])
def tensor_parallel_trains_as_one_process(mesh: DeviceMesh, folder: Path) -> None:
    """And the sharded norms, rotation and gate move nothing: per block two gathers and two scatters of tokens, each way."""
    one = tensor_parallel(model(), mesh, CONFIG)
    batch = next(windows(1))
    with CommDebugMode() as forward:
        one(batch[:, :-1], batch[:, 1:])
    counts = {str(op).split(".")[-1].removesuffix("_single"): count for op, count in forward.get_comm_counts().items()}
    gathers = sum(count for op, count in counts.items() if "gather" in op)
    scatters = sum(count for op, count in counts.items() if "scatter" in op)
    # The last norm gathers tokens, and the loss a few numbers for each row, and how many rows there are.
    if (gathers, scatters) != (2 * CONFIG.blocks + 3, 2 * CONFIG.blocks + 1) or sum(counts.values()) != gathers + scatters:
        raise AssertionError(f"{counts}")
    same_training(tensor_parallel(model(), mesh, CONFIG), "tp", mesh)


@check([TWO])
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


@check([TWO])
def different_rows_are_an_error(mesh: DeviceMesh, folder: Path) -> None:
    rows = 4 + dist.get_rank()
    logits = DTensor.from_local(torch.randn(rows, 5), mesh, [Shard(1)], run_check=False)
    target = torch.zeros(rows, dtype=torch.int64)
    raises(ValueError, "must have the same rows, got [4, 5]", lambda: pylayers.functional.cross_entropy(logits, target))


@check([TWO])
def fsdp_in_mixed_precision(mesh: DeviceMesh, folder: Path) -> None:
    expected, found = trained(build(CONFIG, OURS, CPU)), trained(sharded(build(CONFIG, OURS, CPU), mesh, bfloat16=True))
    equal(torch.tensor(found), torch.tensor(expected), rtol=2e-2, atol=0)


@check([TWO])
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


@check([TWO])
def ties_under_fsdp(mesh: DeviceMesh, folder: Path) -> None:
    def tied() -> LanguageModel:
        one = model()
        one.loss.linear.weight = one.embedding.weight
        return one

    alone, one = tied(), sharded(tied(), mesh)
    if one.loss.linear.weight is not one.embedding.weight:
        raise AssertionError("the tie is lost")
    expected, found = trained(alone), torch.tensor(trained(one, lambda batch: own_rows(batch, "fsdp", mesh)), dtype=torch.float64)
    dist.all_reduce(found)
    equal(found / mesh.size(), torch.tensor(expected, dtype=torch.float64), rtol=1e-7, atol=1e-9)


@check([TWO])
def lazy_layers_under_ddp(mesh: DeviceMesh, folder: Path) -> None:
    lazy = nn.Sequential(pylayers.LazyLinear(8, activation="relu"), pylayers.LazyRMSNorm())
    raises(RuntimeError, "uninitialized parameters", lambda: DistributedDataParallel(lazy))
    torch.manual_seed(9)
    lazy(torch.randn(2, 4))
    one = DistributedDataParallel(lazy)
    one(torch.randn(2, 4)).sum().backward()
    if any(parameter.grad is None for parameter in lazy.parameters()):
        raise AssertionError("a parameter has no gradient")


@check([TWO])
def converted_models_under_fsdp_and_ddp(mesh: DeviceMesh, folder: Path) -> None:
    """Of transformers, with a head whose logits are not computed: the losses of the original in one process."""
    original, inputs = models.made("llama", models.TINY, dtype=torch.float64)
    rows = {name: own_rows(one, "fsdp", mesh) for name, one in inputs.items()}

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
        found = losses(spread(one), rows)
        dist.all_reduce(found)
        equal(found / mesh.size(), expected, str(spread), rtol=1e-7, atol=1e-9)


@check([FOUR])
def checkpoint_is_saved(mesh: DeviceMesh, folder: Path) -> None:
    one = sharded(model(), mesh)
    trained(one, lambda batch: own_rows(batch, "fsdp", mesh))
    dcp.save(get_model_state_dict(one), checkpoint_id=folder.parent / "checkpoint")
    whole = {name: value.full_tensor() for name, value in one.state_dict().items()}
    if dist.get_rank() == 0:
        torch.save(whole, folder.parent / "whole.pt")


def loads_checkpoint(mesh: DeviceMesh, folder: Path) -> None:
    """Of four ranks, on as many as there are."""
    for make in (sharded, partial(tensor_parallel, config=CONFIG)):
        one = make(model(), mesh)
        state = get_model_state_dict(one)
        dcp.load(state, checkpoint_id=folder.parent / "checkpoint")
        set_model_state_dict(one, state)
        for name, value in torch.load(folder.parent / "whole.pt").items():
            equal(one.state_dict()[name], value, name, rtol=0, atol=0)


def dies(mesh: DeviceMesh, folder: Path) -> None:
    """One rank leaves in the middle of training; the others are told."""
    one = sharded(model(), mesh)
    trained(one, lambda batch: own_rows(batch, "fsdp", mesh))
    if dist.get_rank() == 1:
        os._exit(3)
    trained(one, lambda batch: own_rows(batch, "fsdp", mesh))


CHECKS |= {"loads_checkpoint": loads_checkpoint, "dies": dies}
