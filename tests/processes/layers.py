"""Single layers, sharded."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pylayers
import torch
import torch.distributed as dist
from pylayers.distributed import ColwiseParallel, RowwiseParallel, VocabularyParallel
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.parallel import PrepareModuleInput, parallelize_module

from processes.registry import FOUR, TWO, check, equal, raises


@check(TWO, FOUR)
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


@check(TWO)
def styles_refuse(mesh: DeviceMesh, folder: Path) -> None:
    one = partial(parallelize_module, device_mesh=mesh)
    raises(ValueError, "must be a multiple of the 2 ranks, got 3", lambda: one(pylayers.Linear(4, 3), parallelize_plan=ColwiseParallel()))
    raises(ValueError, "in_features of Linear", lambda: one(pylayers.Linear(3, 4), parallelize_plan=RowwiseParallel()))
    raises(ValueError, "use ColwiseParallel", lambda: one(pylayers.Linear(4, 4, activation="gelu"), parallelize_plan=RowwiseParallel()))
    raises(TypeError, "must be a LinearCrossEntropyLoss", lambda: one(pylayers.Linear(4, 4), parallelize_plan=VocabularyParallel()))
    raises(NotImplementedError, "", lambda: one(pylayers.RMSNorm(4), parallelize_plan=ColwiseParallel()))


@check(TWO)
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


@check(TWO)
def two_sided_uniform_draws_what_one_process_draws(mesh: DeviceMesh, folder: Path) -> None:
    torch.manual_seed(7)
    whole = torch.empty(6, 10)
    pylayers.init.two_sided_uniform_(whole)
    torch.manual_seed(7)
    shard = distribute_tensor(torch.zeros(6, 10), mesh, [Shard(1)], src_data_rank=None)
    pylayers.init.two_sided_uniform_(shard)
    equal(shard, whole)
