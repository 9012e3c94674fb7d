"""Tells DTensor the rules of our ops, and the few ops that it must run in another way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_tensor
from torch.distributed.tensor._op_schema import RuntimeSchemaInfo
from torch.distributed.tensor.experimental import register_sharding

from . import rules
from .rules import Cut

_ops = torch.ops.pylayers
_KERNELS = torch._C.DispatchKey.CompositeExplicitAutograd
# Reductions of the pointwise losses.
NONE, MEAN, SUM, BATCHMEAN = range(4)
# Of the golden ratio: seeds of neighbouring shards are far apart.
_STRIDE = 0x9E3779B97F4A7C15


def register() -> None:
    """All that DTensor needs to run our ops. Once for a process."""
    propagator = DTensor._op_dispatcher.sharding_propagator
    for name, rule in rules.RULES.items():
        op = getattr(_ops, name).default
        register_sharding(op)(_placements(op, rule))
        arguments = [str(one.type) for one in op._schema.arguments]
        first = next((index for index, kind in enumerate(arguments) if "Tensor" not in kind), len(arguments))
        propagator.op_to_schema_info[op] = RuntimeSchemaInfo(first, needs_pytree=True)  # every scalar matters, not integers alone
    handlers = DTensor._op_dispatcher._custom_op_handlers
    for name in _public():
        handlers[getattr(_ops, name).default] = _as_kernels
    handlers[_ops.dropout_add_forward.default] = _dropout_add
    handlers[_ops.dropout_add_backward.default] = _dropout_add_backward
    handlers[_ops.two_sided_uniform_.default] = _two_sided_uniform
    handlers[_ops.pointwise_loss_forward.default] = _pointwise_loss
    handlers[_ops.pointwise_loss_backward.default] = _pointwise_loss_backward


def _public() -> list[str]:
    """Ops that consist of others: DTensor meets them in inference mode alone."""
    names = (schema.name.split("::")[1] for schema in torch._C._jit_get_all_schemas() if schema.name.startswith("pylayers::"))
    inside = ("_forward", "_backward", "_rotate", "_epilogue", "uniform_")
    return [name for name in names if not name.endswith(inside)]


def _placements(op: Any, rule: rules.Rule) -> Callable[..., list]:
    """What register_sharding wants to know: for every way, placements of the outputs, and of the arguments in order."""
    names, outputs = [one.name for one in op._schema.arguments], len(op._schema.returns)

    def ways(*arguments: Any, **named: Any) -> list:
        own = SimpleNamespace(**dict(zip(names, arguments, strict=False)), **named)
        cuts = [Cut([Replicate()] * outputs, {}), *rule(own)]
        return [(cut.outputs, [one for name in names for one in _of(getattr(own, name), cut.inputs.get(name, Replicate()))]) for cut in cuts]

    return ways


def _of(argument: Any, placement: Placement) -> list[Placement | None]:
    """Of the tensors in an argument."""
    if isinstance(argument, list | tuple):
        return [placement if hasattr(one, "placements") else None for one in argument]
    return [placement if hasattr(argument, "placements") else None]


def _as_kernels(op: Any, arguments: tuple, named: dict) -> Any:
    """In inference mode there is no autograd to call the ops inside."""
    return op._op_dk(_KERNELS, *arguments, **named)


# ---- ops that are not what they are on each shard


def _seed_of_shard(seed: Tensor, like: DTensor) -> Tensor:
    """Each shard has a mask of its own, and its replicas the same one."""
    if isinstance(seed, DTensor):
        seed = seed.to_local()
    mesh, shard = like.device_mesh, 0
    for dim, placement in enumerate(like.placements):
        if placement.is_shard():
            shard = shard * mesh.size(dim) + mesh.get_local_rank(dim)
    offset = (shard * _STRIDE + 2**63) % 2**64 - 2**63
    return seed ^ offset if shard else seed


def _whole_numbers(tensor: DTensor) -> DTensor:
    """Sums that are not added up yet cannot be masked."""
    return _moved(tensor, [Replicate() if one.is_partial() else one for one in tensor.placements])


def _moved(tensor: DTensor, placements: Sequence[Placement]) -> DTensor:
    """Autograd is above: torch 2.11 cannot move what wants a gradient without it."""
    return tensor if tensor.placements == tuple(placements) else tensor.detach().redistribute(placements=placements)


# On the seed, which autograd keeps: how the masked tensor was placed. The gradient may come in another way.
_PLACED = "_pylayers_placements"


def _dropout_add(op: Any, arguments: tuple, named: dict) -> DTensor:
    input, residual, seed, p = arguments
    input = _whole_numbers(input)
    residual = _moved(residual, input.placements)
    setattr(seed, _PLACED, input.placements)
    y = op(input.to_local(), residual.to_local(), _seed_of_shard(seed, input), p)
    return _as(input, y)


def _dropout_add_backward(op: Any, arguments: tuple, named: dict) -> DTensor:
    grad, seed, p = arguments
    placements = getattr(seed, _PLACED, None)
    if placements is None:
        raise RuntimeError("dropout_add: of a DTensor under torch.compile it is not known in the backward how it was sharded: leave it out")
    grad = _moved(grad, placements)
    return _as(grad, op(grad.to_local(), _seed_of_shard(seed, grad), p))


def _as(like: DTensor, local: Tensor) -> DTensor:
    stride = torch.empty(like.shape, device="meta").stride()
    return DTensor.from_local(local, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=stride)


def _two_sided_uniform(op: Any, arguments: tuple, named: dict) -> None:
    """The numbers that one process would draw, of which each rank keeps its shard."""
    tensor, *others = arguments
    whole = torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.to_local().device)
    op(whole, *others, **named)
    tensor.to_local().copy_(distribute_tensor(whole, tensor.device_mesh, tensor.placements, src_data_rank=None).to_local())


def _loss_arguments(tensors: tuple) -> tuple[DTensor, list[Tensor | None]]:
    """The input, and with it on each rank what belongs to its shard: target, weight and pos_weight, which are broadcast to it."""
    input = _whole_numbers(tensors[0])
    local: list[Tensor | None] = [input.to_local()]
    for one in tensors[1:]:
        local.append(None if one is None else _moved(one, [_broadcast(place, one, input) for place in input.placements]).to_local())
    return input, local


def _broadcast(place: Placement, tensor: DTensor, input: DTensor) -> Placement:
    if not place.is_shard():
        return place
    behind = place.dim - input.ndim + tensor.ndim
    return Shard(behind) if behind >= 0 and tensor.shape[behind] == input.shape[place.dim] else Replicate()


def _size(input: DTensor, reduction: int) -> int:
    return input.numel() if reduction == MEAN else input.shape[0] if reduction == BATCHMEAN and input.ndim else 1


def _pointwise_loss(op: Any, arguments: tuple, named: dict) -> DTensor:
    """A mean is the sum over the number of all; its kernel would divide by that of the shard."""
    *tensors, kind, reduction = arguments
    input, local = _loss_arguments(tensors)
    loss = op(*local, kind, SUM if reduction else NONE)
    if not reduction:
        return _as(input, loss)
    placements = [Partial() if place.is_shard() else place for place in input.placements]
    return DTensor.from_local(loss / _size(input, reduction), input.device_mesh, placements, run_check=False)


def _pointwise_loss_backward(op: Any, arguments: tuple, named: dict) -> tuple[DTensor, DTensor]:
    grad, *tensors, kind, reduction, mask = arguments
    input, local = _loss_arguments(tensors)
    if reduction:
        factor = _moved(grad, [Replicate()] * input.device_mesh.ndim).to_local() / _size(input, reduction)
    else:
        factor = _moved(grad, input.placements).to_local()
    gradients = op(factor, *local, kind, SUM if reduction else NONE, mask)
    return tuple(_as(input, one) if wanted else DTensor.from_local(one, input.device_mesh, run_check=False)
                 for one, wanted in zip(gradients, mask, strict=True))  # fmt: skip
