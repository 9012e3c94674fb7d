"""Cross entropies of classes that are sharded over ranks: no rank ever holds the logits of all classes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate
from torch.distributed.tensor import Shard as ShardOf

from .vocabulary import CrossEntropy, LinearCrossEntropy, Options, Shard, check_range


def vocabulary_parallel_cross_entropy(
    input: DTensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    *,
    z_loss: float = 0.0,
    softcap: float | None = None,
) -> DTensor:
    r"""`pylayers.functional.cross_entropy` of logits whose classes are sharded, which calls it by itself.

    Each rank reads its own logits. Per row it sends 5 numbers (7 with label smoothing) of float32, once, in the forward; the backward
    sends nothing, and its gradient is sharded as the logits are.

    Args:
        input: logits, a DTensor with its classes sharded along one dimension of the mesh. Rows may be sharded along others.
        target: int64 classes of all: a DTensor, or a Tensor with the rows that the rank has of input.
        weight, ignore_index, reduction, label_smoothing, z_loss, softcap: see `pylayers.functional.cross_entropy`.

    Shape: input :math:`(C)`, :math:`(N, C)` or :math:`(N, C, d_1, \dots)`; target and the result without :math:`C`.

    Returns: a DTensor: a scalar on every rank, or with "none" a loss for each row, in the dtype of input.

    Raises:
        TypeError: input is no DTensor, or target is not int64: probabilities would have to be sharded as well.
        ValueError: the classes are sharded along no dimension of the mesh or along several, or there are fewer than ranks.
        IndexError: on a CPU, a target that is no class.
    """
    name = "vocabulary_parallel_cross_entropy"
    dim = 0 if input.ndim == 1 else 1
    shard = _shard_of(name, "input", input, dim, input.shape[dim])
    rows = [_row_placement(place, index == shard.dim, dim) for index, place in enumerate(input.placements)]
    target = _target(name, target, input, rows)
    check_range(name, target, shard.classes, ignore_index)
    logits = input.to_local().movedim(dim, -1)
    options = Options(ignore_index, label_smoothing, z_loss, softcap or 0.0)
    flat = logits.reshape(-1, logits.shape[-1])
    shard.check_rows(name, flat)
    loss, share = CrossEntropy.apply(flat, target.reshape(-1), _of_shard(weight, shard), shard, options)
    if reduction == "none":
        return DTensor.from_local(loss.view(target.shape).to(input.dtype), shard.mesh, rows, run_check=False)
    return _reduced(loss.sum(), share.sum(), reduction, shard, rows).to(input.dtype)


def vocabulary_parallel_linear_cross_entropy(
    input: DTensor,
    linear_weight: DTensor,
    target: Tensor,
    *,
    linear_bias: DTensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    chunk_rows: int | None = None,
) -> DTensor:
    r"""`pylayers.functional.linear_cross_entropy` with a weight whose classes are sharded, which calls it by itself.

    Each rank has the logits of a chunk of rows and of its own classes, no more. Per chunk the ranks exchange what
    `vocabulary_parallel_cross_entropy` does; the backward adds up the gradient of input over the ranks.

    Args:
        input: what the linear map is applied to, a DTensor. Along the dimension of the mesh along which the classes are sharded every
            rank needs all of it, so it is gathered there if need be. Its rows may be sharded along others.
        linear_weight: (C, H), a DTensor with Shard(0) along one dimension of the mesh.
        linear_bias: (C), sharded likewise; or None.
        target: int64 classes of all: a DTensor, or a Tensor with the rows that the rank has of input.
        others: see `pylayers.functional.linear_cross_entropy`.

    Returns: a DTensor: a scalar on every rank, or with "none" a loss for each row, in the dtype of input.

    Raises: as `vocabulary_parallel_cross_entropy`; ValueError also for a weight of more dimensions.
    """
    name = "vocabulary_parallel_linear_cross_entropy"
    if linear_weight.ndim != 2:
        raise ValueError(f"{name}: linear_weight must have shape (classes, features), got {tuple(linear_weight.shape)}")
    shard = _shard_of(name, "linear_weight", linear_weight, 0, linear_weight.shape[0])
    mesh = shard.mesh
    if not isinstance(input, DTensor):
        raise TypeError(f"{name}: input must be a DTensor, as linear_weight is, got {type(input).__name__}")
    rows = [ShardOf(0) if index != shard.dim and place == ShardOf(0) and input.ndim == 2 else Replicate()
            for index, place in enumerate(input.placements)]  # fmt: skip
    partial = [Partial() if index == shard.dim else place for index, place in enumerate(rows)]
    hidden = input.redistribute(placements=rows).to_local(grad_placements=partial)
    target = _target(name, target, input, rows)
    ignore_index = -100 if ignore_index is None else ignore_index
    check_range(name, target, shard.classes, ignore_index)
    learned = [ShardOf(0) if index == shard.dim else Partial() if place == ShardOf(0) else Replicate() for index, place in enumerate(rows)]
    own = linear_weight.to_local(grad_placements=learned)
    bias = None if linear_bias is None else linear_bias.redistribute(placements=linear_weight.placements).to_local(grad_placements=learned)
    options = Options(ignore_index, label_smoothing, z_loss, softcap or 0.0)
    summed = reduction != "none"
    matrix = hidden if hidden.ndim == 2 else hidden.unsqueeze(0)
    shard.check_rows(name, matrix)
    loss, share = LinearCrossEntropy.apply(matrix, own, bias, target.reshape(-1), _of_shard(weight, shard), shard, options, chunk_rows, summed)
    if summed:
        return _reduced(loss, share, reduction, shard, rows).to(input.dtype)
    return DTensor.from_local(loss.view(target.shape).to(input.dtype), mesh, rows, run_check=False)


def _shard_of(name: str, what: str, tensor: Tensor, dim: int, classes: int) -> Shard:
    if not isinstance(tensor, DTensor):
        raise TypeError(f"{name}: {what} must be a DTensor, got {type(tensor).__name__}")
    dims = [index for index, place in enumerate(tensor.placements) if place.is_shard(dim)]
    if len(dims) != 1:
        raise ValueError(f"{name}: the classes of {what} must be sharded along one dimension of the mesh, got {tensor.placements}")
    shard = Shard(tensor.device_mesh, dims[0], classes)
    shard.check(name)
    return shard


def _row_placement(place: Placement, classes: bool, dim: int) -> Placement:
    """Of a number for each row."""
    if classes or not place.is_shard():
        return Replicate()
    return ShardOf(place.dim - (place.dim > dim))


def _target(name: str, target: Tensor, input: DTensor, rows: list[Placement]) -> Tensor:
    if target.is_floating_point():
        raise TypeError(f"{name}: target must be int64 where the classes are sharded, got {target.dtype}: probabilities need all of them")
    return target.redistribute(placements=rows).to_local() if isinstance(target, DTensor) else target


def _of_shard(weight: Tensor | None, shard: Shard) -> Tensor | None:
    """The weights of the classes of this rank."""
    if weight is None:
        return None
    whole = weight.full_tensor() if isinstance(weight, DTensor) else weight
    return whole[shard.first : shard.first + shard.count]


def _reduced(loss: Tensor, share: Tensor, reduction: str, shard: Shard, rows: list[Placement]) -> DTensor:
    """Over the rows of all ranks."""
    sums = [Partial() if place.is_shard() else place for place in rows]
    whole = [Replicate()] * shard.mesh.ndim
    total = DTensor.from_local(loss, shard.mesh, sums, run_check=False).redistribute(placements=whole)
    if reduction == "sum":
        return total
    count = DTensor.from_local(share, shard.mesh, sums, run_check=False).redistribute(placements=whole).to_local()
    mean = total.to_local() / torch.where(count == 0, 1, count)
    return DTensor.from_local(torch.where(count == 0, torch.nan, mean), shard.mesh, whole, run_check=False)
