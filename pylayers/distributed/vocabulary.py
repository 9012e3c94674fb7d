"""The cross entropy of a shard of the classes, and how the shards of all ranks become one.

Every rank reads its own logits alone. What it has to tell the others is a few numbers for each row: the maximum, the sum of
exponentials beside it, the logit of the target if it is in this shard, and with label smoothing the sum of all logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributed import _functional_collectives as collectives
from torch.distributed.device_mesh import DeviceMesh

from ..reference.dtypes import accumulation_dtype

_IGNORED = -100
_all_gather = getattr(collectives, "all_gather_single", None) or collectives.all_gather_tensor  # its name since torch 2.14
_forward = torch.ops.pylayers.cross_entropy_forward
_backward = torch.ops.pylayers.cross_entropy_backward


@dataclass(frozen=True)
class Shard:
    """Of `classes` classes this rank has `count`, from `first` on: the shard that DTensor gives to the `rank`-th along a dimension."""

    mesh: DeviceMesh
    dim: int
    classes: int

    @property
    def most(self) -> int:
        """What the first rank has."""
        return -(-self.classes // self.mesh.size(self.dim))

    @property
    def first(self) -> int:
        return min(self.mesh.get_local_rank(self.dim) * self.most, self.classes)

    @property
    def count(self) -> int:
        return min(self.most, self.classes - self.first)

    def check(self, name: str) -> None:
        """The same on every rank, before any of them waits for another."""
        ranks = self.mesh.size(self.dim)
        if (ranks - 1) * self.most >= self.classes:
            raise ValueError(f"{name}: every rank must have a class, got {self.classes} classes over {ranks} ranks")

    def check_rows(self, name: str, rows: Tensor) -> None:
        """That all ranks have as many, which they are about to exchange. A GPU would have to be waited for: NCCL's time-out tells there."""
        if rows.is_cpu and not torch.compiler.is_compiling():
            found = self.gather(torch.tensor(len(rows))).tolist()
            if len(set(found)) > 1:
                raise ValueError(f"{name}: ranks with shards of the same classes must have the same rows, got {found}")

    def gather(self, numbers: Tensor) -> Tensor:
        """[ranks, …] of what each rank has."""
        return collectives.wait_tensor(_all_gather(numbers.unsqueeze(0), 0, (self.mesh, self.dim)))


@dataclass(frozen=True)
class Options:
    ignore_index: int = _IGNORED
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    softcap: float = 0.0


class Rows(NamedTuple):
    """Of each row: its loss, what it counts in a mean, and what its gradient needs. The first two are the same on every rank."""

    loss: Tensor
    share: Tensor
    target: Tensor
    top: Tensor
    scale: Tensor
    own_share: Tensor

    def kept(self) -> tuple[Tensor, ...]:
        return self.target, self.top, self.scale, self.own_share


def check_range(name: str, target: Tensor, classes: int, ignore_index: int) -> None:
    """On a CPU. On a GPU, which would have to be waited for, such a row is NaN."""
    if target.is_cpu and not torch.compiler.is_compiling():
        wrong = target[((target < 0) | (target >= classes)) & (target != ignore_index)]
        if wrong.numel():
            raise IndexError(f"{name}: target must be between 0 and {classes - 1} or ignore_index {ignore_index}, got {int(wrong[0])}")


def losses(logits: Tensor, target: Tensor, weight: Tensor | None, shard: Shard, options: Options) -> Rows:
    """Of logits [rows, count] and classes [rows] of all. weight [count] belongs to the classes of this shard."""
    smoothing, cap = options.label_smoothing, options.softcap
    weight = None if weight is None else weight.to(logits.dtype)
    live, local = target != options.ignore_index, target - shard.first
    inside = live & (local >= 0) & (local < shard.count)
    local = torch.where(inside, local, 0)
    # With all of the probability spread, the kernel's loss tells the sum of the logits.
    counted, spread = torch.where(live, local, _IGNORED), weight if smoothing else None
    mean, top, scale, _ = _forward(logits, counted, spread, _IGNORED, float(smoothing > 0), 0.0, cap)
    acc = mean.dtype
    weights = torch.full((), float(shard.count), dtype=acc, device=mean.device) if weight is None else weight.to(acc).sum()
    exponentials = (weights / shard.count if smoothing else 1.0) / torch.where(live, scale, 1)
    z = logits.gather(1, local.unsqueeze(1)).squeeze(1).to(acc)
    z = cap * torch.tanh(z / cap) if cap else z
    own_share = torch.where(inside, 1 if weight is None else weight.to(acc)[local], 0)
    numbers = [torch.where(live, top, 0), exponentials, torch.where(inside, z, 0), own_share, inside.to(acc)]
    if smoothing:
        total = weights * (top + exponentials.log()) - shard.count * mean
        numbers += [torch.where(live, total, 0), weights.expand_as(top)]
    tops, sums, targets, shares, insides, *totals = shard.gather(torch.stack(numbers)).unbind(1)
    highest = tops.amax(0)
    lse = highest + (sums * (tops - highest).exp()).sum(0).log()
    share = torch.where(live & (insides.sum(0) == 0), torch.nan, shares.sum(0))  # of a target that is no class
    slope = (1 - smoothing) * share
    loss = slope * (lse - targets.sum(0)) + options.z_loss * lse.square()
    if smoothing:
        total, weights = totals[0].sum(0), totals[1].sum(0)
        loss = loss + smoothing / shard.classes * (weights * lse - total)
        slope = slope + smoothing / shard.classes * weights
    slope = slope + 2 * options.z_loss * lse
    own_share = torch.where(share.isnan(), share, own_share)
    return Rows(torch.where(live, loss, 0), share, counted, top, slope * (top - lse).exp(), own_share)


def gradient(grad: Tensor, logits: Tensor, weight: Tensor | None, kept: tuple[Tensor, ...], shard: Shard, options: Options) -> Tensor:
    """Of the logits [rows, count], for a gradient [rows] of the losses. Nothing is waited for."""
    target, top, scale, share = kept
    # The kernel spreads over the classes that it sees.
    smoothing = options.label_smoothing * shard.count / shard.classes
    share = share * ((1 - options.label_smoothing) / (1 - smoothing)) if smoothing < 1 else torch.zeros_like(share)
    spread = weight.to(logits.dtype) if smoothing and weight is not None else None
    return _backward(grad, logits, target, spread, top, scale, share, _IGNORED, smoothing, options.z_loss, options.softcap)


class CrossEntropy(torch.autograd.Function):
    """Losses and shares [rows] of logits [rows, count]."""

    @staticmethod
    def forward(ctx, logits: Tensor, target: Tensor, weight: Tensor | None, shard: Shard, options: Options) -> tuple[Tensor, Tensor]:  # noqa: ANN001
        rows = losses(logits, target, weight, shard, options)
        ctx.save_for_backward(logits, *rows.kept(), *(() if weight is None else (weight,)))
        ctx.shard, ctx.options = shard, options
        ctx.mark_non_differentiable(rows.share)
        return rows.loss, rows.share

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor, _: Tensor) -> tuple:  # noqa: ANN001
        logits, *kept = ctx.saved_tensors
        weight = kept.pop() if len(kept) == 5 else None
        return gradient(grad, logits, weight, tuple(kept), ctx.shard, ctx.options), None, None, None, None


# ---- with the linear map, a chunk of rows at a time

# Bytes of the logits that exist at once, on a CPU and on a GPU.
_BUDGET = {"cpu": 64 << 20, "cuda": 1 << 30}


def chunk_of(rows: int, shard: Shard, input: Tensor, chunk_rows: int | None) -> int:
    """Rows at once: the same on every rank, since all of them talk about a chunk."""
    size = accumulation_dtype(input.dtype).itemsize * shard.most
    return max(1, min(rows, chunk_rows or max(512, _BUDGET.get(input.device.type, 64 << 20) // size)))


class _Map:
    """The linear map in float32 (float64 for float64)."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.acc = accumulation_dtype(weight.dtype)
        self.widens = weight.is_cuda and weight.dtype != self.acc  # cuBLAS gives float32 of 16 bits
        self.weight = weight if self.widens else weight.to(self.acc)
        self.bias = None if bias is None else bias.to(self.acc)

    def taken(self, input: Tensor) -> Tensor:
        return input if self.widens else input.to(self.acc)

    def _product(self, left: Tensor, right: Tensor) -> Tensor:
        return torch.mm(left, right, out_dtype=self.acc) if self.widens else left @ right

    def logits(self, input: Tensor) -> Tensor:
        product = self._product(input, self.weight.t())
        return product if self.bias is None else product + self.bias

    def back(self, d: Tensor) -> Tensor:
        return self._product(d.to(self.weight.dtype), self.weight)

    def across(self, d: Tensor, input: Tensor) -> Tensor:
        return self._product(d.to(input.dtype).t(), input)


class _Sums:
    """Gradients of input, weight and bias, of those that are wanted, in float32."""

    def __init__(self, input: Tensor, weight: Tensor, wanted: tuple[bool, ...]) -> None:
        acc = accumulation_dtype(input.dtype)
        shapes = (input.shape, weight.shape, weight.shape[:1])
        self.dinput, self.dweight, self.dbias = (
            torch.zeros(shape, dtype=acc, device=input.device) if asked else None for shape, asked in zip(shapes, wanted, strict=True)
        )

    def add(self, own: _Map, x: Tensor, start: int, d: Tensor) -> None:
        if self.dinput is not None:
            self.dinput[start : start + len(x)] = own.back(d)
        if self.dweight is not None:
            self.dweight += own.across(d, x)
        if self.dbias is not None:
            self.dbias += d.sum(0)

    def given(self) -> tuple[Tensor | None, ...]:
        return self.dinput, self.dweight, self.dbias


class LinearCrossEntropy(torch.autograd.Function):
    """Losses and shares [rows], or their sums, of input [rows, features] and a shard [count, features] of the weight.

    For a sum the gradients are made with it, while the logits of a chunk exist, and wait for their factor.
    """

    @staticmethod
    def forward(ctx, input: Tensor, linear_weight: Tensor, linear_bias: Tensor | None, target: Tensor, weight: Tensor | None,
                shard: Shard, options: Options, chunk_rows: int | None, summed: bool) -> tuple[Tensor, Tensor]:  # noqa: ANN001  # fmt: skip
        wanted = ctx.needs_input_grad[:3] if summed else (False,) * 3
        own, sums = _Map(linear_weight, linear_bias), _Sums(input, linear_weight, wanted)
        size, found = chunk_of(len(input), shard, input, chunk_rows), []
        for start in range(0, len(input), size):
            x = own.taken(input[start : start + size])
            logits = own.logits(x)
            rows = losses(logits, target[start : start + size], weight, shard, options)
            if any(wanted):
                one = torch.ones_like(rows.loss)
                sums.add(own, x, start, gradient(one, logits, weight, rows.kept(), shard, options))
            found.append(rows)
        empty = input.new_empty(0, dtype=own.acc)
        rows = Rows(*(torch.cat(parts) for parts in zip(*found, strict=True))) if found else Rows(*[empty] * 6)
        ctx.given = (shard, options, chunk_rows, summed)
        ctx.dtype = input.dtype
        held = sums.given() if summed else (input, linear_weight, linear_bias, weight, *rows.kept())
        ctx.save_for_backward(*held)
        loss, share = (rows.loss.sum(), rows.share.sum()) if summed else (rows.loss, rows.share)
        ctx.mark_non_differentiable(share)
        return loss, share

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor, _: Tensor) -> tuple:  # noqa: ANN001
        shard, options, chunk_rows, summed = ctx.given
        if summed:
            gradients = [None if one is None else (one * grad).to(ctx.dtype) for one in ctx.saved_tensors]
        else:
            input, linear_weight, linear_bias, weight, *kept = ctx.saved_tensors
            own, sums = _Map(linear_weight, linear_bias), _Sums(input, linear_weight, ctx.needs_input_grad[:3])
            size = chunk_of(len(input), shard, input, chunk_rows)
            for start in range(0, len(input), size):
                x, part = own.taken(input[start : start + size]), slice(start, start + size)
                sums.add(own, x, start, gradient(grad[part].contiguous(), own.logits(x), weight, tuple(one[part] for one in kept), shard, options))
            gradients = [None if one is None else one.to(input.dtype) for one in sums.given()]
        return (*gradients, *[None] * 6)
