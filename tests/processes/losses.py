"""Losses of sharded classes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pylayers
import torch
import torch.distributed as dist
from pylayers.check import compare
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.utils._python_dispatch import TorchDispatchMode

from processes.registry import FOUR, TWO, check, equal, raises


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


@check(TWO, FOUR)
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
        with CommDebugMode() as talk:  # without accumulation, for which torch 2.11 gathers shards of different sizes
            (gradient,) = torch.autograd.grad(loss, shard, distribute_tensor(incoming, mesh, [Replicate()], src_data_rank=None))
        equal(loss, expected, f"{given}")
        equal(gradient, plain.grad, f"{given}: gradient")
        if talk.get_total_counts() or gradient.placements != (Shard(1),):
            raise AssertionError(f"{given}: the backward moves {dict(talk.get_comm_counts())}")


@check(TWO)
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


@check(TWO, FOUR)
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


@check(TWO)
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


@check(FOUR)
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


@check(TWO)
def different_rows_are_an_error(mesh: DeviceMesh, folder: Path) -> None:
    rows = 4 + dist.get_rank()
    logits = DTensor.from_local(torch.randn(rows, 5), mesh, [Shard(1)], run_check=False)
    target = torch.zeros(rows, dtype=torch.int64)
    raises(ValueError, "must have the same rows, got [4, 5]", lambda: pylayers.functional.cross_entropy(logits, target))
