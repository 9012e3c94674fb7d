"""Every op with each of its tensors sharded along each dimension, beside the same call in one process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode

from pylayers import functional as F

# Beyond what float64 is off by where sums are taken in another order.
CLOSE = dict(rtol=1e-9, atol=1e-11)


@dataclass(frozen=True)
class Case:
    """`free`: along which dimensions of the first tensors the call works on shards alone. `along` names tensors that go with them.
    `inside`: what the op calls of torch's own, which does not shard in every way before torch 2.13."""

    call: Callable
    tensors: tuple
    free: tuple[int, ...]
    along: dict[int, dict[int, int]] = field(default_factory=dict)  # tensor -> dimension of the first one -> its own
    inside: Callable | None = None

    def made(self) -> list[Tensor]:
        torch.manual_seed(0)
        return [one() if callable(one) else torch.randn(one, dtype=torch.float64) for one in self.tensors]


def classes(count: int, *shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randint(count, shape)


def same(*dims: int) -> dict[int, int]:
    return {dim: dim for dim in dims}


X = (4, 6, 8)
TABLE, LONGER = (6, 4), (9, 4)
CASES: dict[str, Case] = {
    "rms_norm": Case(lambda x, w: F.rms_norm(x, (8,), w, 1e-6), (X, (8,)), (0, 1)),
    "rms_norm of two dimensions": Case(lambda x, w: F.rms_norm(x, (6, 8), w, 1e-6), (X, (6, 8)), (0,)),
    "layer_norm": Case(lambda x, w, b: F.layer_norm(x, (8,), w, b), (X, (8,), (8,)), (0, 1)),
    "group_norm": Case(lambda x, w, b: F.group_norm(x, 2, w, b, activation="silu"), ((4, 6, 5), (6,), (6,)), (0,)),
    "add_rms_norm": Case(lambda x, r, w: F.add_rms_norm(x, r, (8,), w), (X, X, (8,)), (0, 1), {1: same(0, 1)}),
    "add_layer_norm": Case(lambda x, r, w, b: F.add_layer_norm(x, r, (8,), w, b), (X, X, (8,), (8,)), (0, 1), {1: same(0, 1)}),
    "swiglu": Case(F.swiglu, (X, X), (0, 1, 2), {1: same(0, 1, 2)}),
    "geglu_packed": Case(F.geglu_packed, (X,), (0, 1)),
    "relu_squared": Case(F.relu_squared, (X,), (0, 1, 2)),
    "softmax": Case(lambda x: F.softmax(x, 1), (X,), (0, 2)),
    "log_softmax": Case(lambda x: F.log_softmax(x, -1), (X,), (0, 1)),
    "scaled_masked_softmax": Case(lambda x, m: F.scaled_masked_softmax(x, m, 0.5), ((4, 2, 6, 8), (4, 1, 6, 8)), (0, 1, 2), {1: same(0, 2)}),
    "scaled_masked_softmax, causal": Case(lambda x: F.scaled_masked_softmax(x, None, 0.5, True), ((4, 2, 6, 6),), (0, 1)),
    "rotary": Case(lambda q, k, c, s: F.rotary(q, k, c.detach(), s.detach()), ((4, 6, 2, 8), (4, 6, 2, 8), TABLE, TABLE), (0, 1, 2),
                   {1: same(0, 1, 2), 2: {1: 0}, 3: {1: 0}}),  # fmt: skip
    "rotary with a longer table": Case(lambda q, c, s: F.rotary(q, q, c.detach(), s.detach())[0], ((4, 6, 2, 8), LONGER, LONGER), (0, 2)),
    "rotary with positions": Case(lambda q, c, s, p: F.rotary(q, q, c.detach(), s.detach(), positions=p)[0], ((4, 6, 2, 8), TABLE, TABLE, classes(6, 4, 6)), (0, 1, 2),
                                  {3: same(0, 1)}),  # fmt: skip
    "linear": Case(lambda x, w, b: F.linear(x, w, b), (X, (10, 8), (10,)), (0, 1), inside=torch.nn.functional.linear),
    "linear, gelu": Case(lambda x, w, b: F.linear(x, w, b, activation="gelu", scale=0.5), (X, (10, 8), (10,)), (0, 1),
                         inside=torch.nn.functional.linear),
    "linear, relu": Case(lambda x, w: F.linear(x, w, activation="relu"), (X, (10, 8)), (0, 1)),
    "parallel_linear": Case(lambda x, v, w: F.parallel_linear(x, [v, w], [None, None], activation="silu"), (X, (300, 8), (400, 8)), (0, 1)),
    "bilinear": Case(F.bilinear, (X, (4, 6, 5), (6, 8, 5), (6,)), (0, 1), {1: same(0, 1)}),
    "tensor_reduction": Case(lambda x, w: F.tensor_reduction(x, w), (X, (6, 8, 8)), (0, 1)),
    "leading_fourier": Case(lambda x: torch.view_as_real(F.leading_fourier(x, 3)), (X,), (0, 1), inside=torch.fft.rfft),
    "center": Case(lambda x: F.center(x, (1,)), (X,), (0, 2)),
    "centered_affine": Case(lambda x, w, b: F.centered_affine(x, w, b, 1), (X, (8,), (8,)), (0,)),
    "halve_until": Case(lambda x: F.halve_until(x, 3.0), (X,), ()),
    "cross_entropy": Case(lambda x, t: F.cross_entropy(x, t, label_smoothing=0.1, reduction="none"), ((6, 9), classes(9, 6)), (0,), {1: same(0)}),
    "cross_entropy of images": Case(lambda x, t: F.cross_entropy(x, t), ((4, 9, 6), classes(9, 4, 6)), (), {1: {0: 0, 2: 1}}),
    "cross_entropy of probabilities": Case(lambda x, t: F.cross_entropy(x, t.softmax(1).detach(), reduction="sum"), ((6, 9), (6, 9)), (0,), {1: same(0)}),
    "linear_cross_entropy": Case(lambda x, w, t, b: F.linear_cross_entropy(x, w, t, linear_bias=b), ((6, 8), (9, 8), classes(9, 6), (9,)), (),
                                 {2: same(0)}),  # fmt: skip
    "linear_cross_entropy, rows": Case(lambda x, w, t: F.linear_cross_entropy(x, w, t, reduction="none"), ((6, 8), (9, 8), classes(9, 6)), (0,),
                                       {2: same(0)}),  # fmt: skip
    "linear_kl_div": Case(lambda s, t, v, w: F.linear_kl_div(s, v, t.detach(), w.detach(), reduction="sum"), ((6, 8), (6, 8), (9, 8), (9, 8)), (0,),
                          {1: same(0)}),  # fmt: skip
    "mse_loss": Case(F.mse_loss, (X, X), (0, 1, 2), {1: same(0, 1, 2)}),
    "mse_loss, rows": Case(lambda x, t: F.mse_loss(x, t, reduction="none"), ((5, 7), (5, 7)), (0, 1), {1: same(0, 1)}),
    "binary_cross_entropy_with_logits": Case(lambda x, t, p: F.binary_cross_entropy_with_logits(x, t.sigmoid(), pos_weight=p.exp().detach()),
                                             (X, X, (8,)), (0, 1), {1: same(0, 1)}),  # fmt: skip
    "kl_div": Case(lambda x, t: F.kl_div(x.log_softmax(-1), t.log_softmax(-1), reduction="batchmean", log_target=True), (X, X), (0, 1), {1: same(0, 1)}),
}  # fmt: skip


def run(call: Callable, tensors: list[Tensor]) -> tuple[list[Tensor], list[Tensor | None]]:
    """Outputs, and gradients for the same incoming ones everywhere."""
    outputs = call(*tensors)
    outputs = list(outputs) if isinstance(outputs, tuple) else [outputs]
    loss = 0
    for index, one in enumerate(outputs):
        weights = torch.linspace(-1, 2, max(one.numel(), 1), dtype=torch.float64).view(one.shape) + index
        loss = loss + (one * (distribute_tensor(weights, one.device_mesh, _whole(one)) if isinstance(one, DTensor) else weights)).sum()
    asked = [one for one in tensors if one.requires_grad]
    return outputs, list(torch.autograd.grad(loss, asked, allow_unused=True))


def _whole(like: DTensor) -> list[Placement]:
    return [Replicate()] * like.device_mesh.ndim


def whole(tensor: Tensor | None) -> Tensor | None:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def placed(tensors: list[Tensor], mesh: DeviceMesh, placements: list[Placement]) -> list[DTensor]:
    shards = [distribute_tensor(one, mesh, [placement], src_data_rank=None) for one, placement in zip(tensors, placements, strict=True)]
    return [one.requires_grad_() if one.is_floating_point() else one for one in shards]


class Lacking(Exception):
    """This torch cannot do what is to be checked."""


def _refusal(case: Case, tensors: list[Tensor]) -> str:
    """What torch's own op says of these shards, if it does not take them."""
    try:
        if case.inside:
            case.inside(*tensors)
    except (NotImplementedError, RuntimeError) as error:
        return str(error).splitlines()[0]
    return ""


def check(name: str, mesh: DeviceMesh, folder: Path) -> None:
    case, lacking = CASES[name], ""
    plain = [one.requires_grad_() if one.is_floating_point() else one for one in case.made()]
    expected = run(case.call, plain)
    for placements, free in _ways(case):
        tensors = placed(case.made(), mesh, placements)
        if torch.__version__ < "2.13" and (refusal := _refusal(case, tensors)):
            lacking = f"{refusal} ({placements})"
            continue
        with torch.no_grad(), CommDebugMode() as talk:
            case.call(*tensors)
        if free and talk.get_total_counts():
            raise AssertionError(f"{placements}: moves {dict(talk.get_comm_counts())}")
        found = run(case.call, tensors)
        for actual, exact in zip((*found[0], *found[1]), (*expected[0], *expected[1]), strict=True):
            if (actual is None) != (exact is None):
                raise AssertionError(f"{placements}: a gradient is missing")
            if exact is not None:
                torch.testing.assert_close(whole(actual), exact, **CLOSE, msg=lambda told, way=placements: f"{way}: {told}")
    if lacking:
        raise Lacking(f"torch {torch.__version__}: {lacking}")
    with torch.inference_mode():
        result = case.call(*placed(case.made(), mesh, [Replicate()] * len(plain)))
        torch.testing.assert_close(whole(result[0] if isinstance(result, tuple) else result), expected[0][0].detach(), **CLOSE)


def _ways(case: Case) -> list[tuple[list[Placement], bool]]:
    """Placements of all tensors, and whether nothing may be moved."""
    tensors = case.made()
    ways = []
    for dim in range(tensors[0].dim()):
        together = [Shard(dim)]
        for index in range(1, len(tensors)):
            own = case.along.get(index, {}).get(dim)
            together.append(Replicate() if own is None else Shard(own))
        ways.append((together, dim in case.free))
    for index, tensor in enumerate(tensors):
        for dim in range(tensor.dim()):
            ways.append(([Shard(dim) if other == index else Replicate() for other in range(len(tensors))], False))
    return ways
