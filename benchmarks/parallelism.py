"""The language model on several processes: replicated (DDP), with sharded parameters (FSDP), or with sharded layers (tensor parallel)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.rendezvous import rendezvous
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import PrepareModuleInput, parallelize_module
from torch.distributed.tensor.parallel import RowwiseParallel as EmbeddingParallel
from torch.nn.parallel import DistributedDataParallel

from pylayers.distributed import ColwiseParallel, RowwiseParallel, SequenceParallel, VocabularyParallel

from .language_model import Config, LanguageModel

KINDS = ("none", "ddp", "fsdp", "tp")
# After which a rank that waits for a dead one stops with an error.
PATIENCE = timedelta(minutes=2)


@contextmanager
def processes(device: torch.device) -> Iterator[DeviceMesh]:
    """All processes that torchrun started, in a row; NCCL on GPUs, else gloo. Those that it starts again after one died do not look for
    the addresses of the dead, which torchrun's store still has."""
    if "WORLD_SIZE" not in os.environ:
        raise RuntimeError("--parallel: start it with torchrun, as in: torchrun --nproc-per-node=2 examples/train_lm.py --parallel ddp")
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    store, rank, size = next(rendezvous("env://", timeout=PATIENCE))
    store = dist.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", store=store, rank=rank, world_size=size, timeout=PATIENCE)
    try:
        yield init_device_mesh(device.type, (dist.get_world_size(),))
    finally:
        dist.destroy_process_group()


def spread(kind: str, mesh: DeviceMesh | None, config: Config, *, bfloat16: bool = False) -> Callable[[nn.Module], nn.Module]:
    """What makes the model one of many processes."""
    if kind == "ddp":
        return DistributedDataParallel
    if kind == "fsdp":
        return partial(sharded, mesh=mesh, bfloat16=bfloat16)
    if kind == "tp":
        return partial(tensor_parallel, mesh=mesh, config=config)
    return lambda model: model


def sharded(model: LanguageModel, mesh: DeviceMesh, bfloat16: bool = False) -> LanguageModel:
    """Every block gathers its parameters when it runs, and has its shard of them otherwise."""
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32) if bfloat16 else MixedPrecisionPolicy()
    for block in model.blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    return fully_shard(model, mesh=mesh, mp_policy=policy)


def tensor_parallel(model: LanguageModel, mesh: DeviceMesh, config: Config) -> LanguageModel:
    """Each rank has some heads, hidden features and classes, and between the products some tokens."""
    ranks = mesh.size()
    if config.heads % ranks:
        raise ValueError(f"tensor parallelism: the heads must be a multiple of the {ranks} ranks, got {config.heads}")
    gathered = PrepareModuleInput(input_layouts=(Shard(1),), desired_input_layouts=(Replicate(),))
    tokens = RowwiseParallel(output_layouts=Shard(1), use_local_output=False)
    plan = {
        "embedding": EmbeddingParallel(input_layouts=Replicate(), output_layouts=Shard(1), use_local_output=False),
        "norm": SequenceParallel(),
        "loss": VocabularyParallel(),
    }
    for index, block in enumerate(model.blocks):
        block.attention.heads //= ranks
        last = index == len(model.blocks) - 1
        own = {
            "attention": gathered,
            **{f"attention.{name}": ColwiseParallel() for name in ("q_proj", "k_proj", "v_proj")},
            "attention.o_proj": tokens,
            "mlp_norm": SequenceParallel(),
            "mlp": gathered,
            "mlp.gate_proj": ColwiseParallel(),
            "mlp.up_proj": ColwiseParallel(),
            "mlp.down_proj": tokens,
            "norm": SequenceParallel(output_layouts=(Replicate(),) if last else ()),
        }
        plan.update({f"blocks.{index}.{name}": style for name, style in own.items()})
    return parallelize_module(model, mesh, plan)


def own_rows(windows: Tensor, kind: str, mesh: DeviceMesh | None) -> Tensor:
    """Of a batch, what this rank trains on."""
    if kind in ("ddp", "fsdp") and len(windows) % mesh.size():
        raise ValueError(f"--parallel {kind}: the batch must be a multiple of the {mesh.size()} ranks, got {len(windows)}")
    return windows if kind in ("none", "tp") else windows.chunk(mesh.size())[mesh.get_local_rank()]


def everywhere(loss: float, kind: str) -> float:
    """The mean over all rows."""
    if kind in ("none", "tp"):
        return loss
    total = torch.tensor(loss, dtype=torch.float64, device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(total)
    return total.item() / dist.get_world_size()
