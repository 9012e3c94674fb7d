"""Every layer of the package, and every op behind one, with inputs: what exporters are tried on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from harness import normal
from pylayers import functional as F
from torch import Tensor, nn

import pylayers

BATCH, TOKENS = 3, 5


@dataclass(frozen=True)
class Case:
    make: Callable[[], nn.Module]
    inputs: Callable[[int, int], tuple[Tensor, ...]]  # of batch and tokens
    free: tuple[tuple[int, ...], ...] = ((0,),)  # the dimensions of each input that may change; the last entry stands for the others, too


class Call(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable, *arguments, **options) -> None:
        super().__init__()
        self.function = partial(function, **options)
        self.count = len(arguments)
        for index, one in enumerate(arguments):
            self.register_buffer(f"argument{index}", one)

    def forward(self, *inputs: Tensor):
        return self.function(*inputs, *(getattr(self, f"argument{index}") for index in range(self.count)))


class Several(nn.Module):
    """Modules side by side, each with its own inputs: one export for all."""

    def __init__(self, layers: dict[str, nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({name.replace(".", "_"): layer for name, layer in layers.items()})

    def forward(self, inputs: list[list[Tensor]]) -> list[Tensor]:
        outputs = [layer(*own) for layer, own in zip(self.layers.values(), inputs, strict=True)]
        return [one for each in outputs for one in (each if isinstance(each, tuple) else (each,))]


def several(names: Sequence[str]) -> Several:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Several({name: initialised(name) for name in names}).eval()


def initialised(name: str) -> nn.Module:
    """In eval mode, and with shapes if it is lazy; parameters that start equal are made to differ."""
    case = CASES[name]
    layer = case.make().eval()
    layer(*case.inputs(BATCH, TOKENS))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return layer


def inputs_of(names: Sequence[str], batch: int = BATCH, tokens: int = TOKENS) -> list[list[Tensor]]:
    return [list(CASES[name].inputs(batch, tokens)) for name in names]


def dynamic(names: Sequence[str]) -> list:
    """dynamic_shapes of `inputs_of`."""
    free = torch.export.Dim.DYNAMIC
    shapes = []
    for name in names:
        case, count = CASES[name], len(CASES[name].inputs(2, 2))
        dims = (case.free + case.free[-1:] * count)[:count]
        shapes.append([dict.fromkeys(own, free) for own in dims])
    return shapes


def _normal(*tail: int):
    return lambda batch, tokens: (normal(batch, *tail),)


def _sequence(*tail: int):
    return lambda batch, tokens: (normal(batch, tokens, *tail),)


def _twice(*tail: int):
    return lambda batch, tokens: (normal(batch, tokens, *tail), normal(batch, tokens, *tail, seed=1))


def _classes(count: int, *tail: int, ignored: int = -100):
    """Logits with targets, of which the first is ignored."""

    def make(batch: int, tokens: int):
        target = torch.arange(batch * max(1, torch.Size(tail).numel())).view(batch, *tail) % count
        target[0] = ignored
        return normal(batch, count, *tail), target

    return make


def _hidden(width: int, count: int, *tail: int, ignored: int = -100):
    return lambda batch, tokens: (normal(batch, width), _classes(count, *tail, ignored=ignored)(batch, tokens)[1])


def _heads(q: tuple, k: tuple):
    def make(batch: int, tokens: int):
        sizes = {"B": batch, "T": tokens}
        return tuple(normal(*(sizes.get(one, one) for one in shape), seed=seed) for seed, shape in enumerate((q, k)))

    return make


def _with_positions(batch: int, tokens: int):
    q, k = _heads(("B", "T", 4, 8), ("B", "T", 2, 8))(batch, tokens)
    return q, k, 7 * torch.arange(tokens) % 16 + torch.arange(batch)[:, None]


def _rotated_by_table(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor):
    return F.rotary(q, k, cos, sin, heads_first=True)


def _side_by_side(x: Tensor, v: Tensor, w: Tensor, bias: Tensor):
    return F.parallel_linear(x, [v, w], [None, bias], activation="gelu")


def _probabilities(batch: int, tokens: int):
    return normal(batch, 5), normal(batch, 5, seed=1).softmax(-1)


def _mask(batch: int, tokens: int):
    allowed = torch.ones(batch, 1, tokens, tokens + 2, dtype=torch.bool).tril(1)
    allowed[0, 0, 1] = False  # this query sees nothing
    return normal(batch, 2, tokens, tokens + 2), allowed


def _added_mask(batch: int, tokens: int):
    return normal(batch, 2, tokens, tokens + 2), normal(tokens, tokens + 2, seed=1)


LAYERS: dict[str, Case] = {
    "AddLayerNorm": Case(lambda: pylayers.AddLayerNorm(8), _twice(8), free=((0, 1),)),
    "AddRMSNorm": Case(lambda: pylayers.AddRMSNorm(8, 1e-3, offset=1.0), _twice(8), free=((0, 1),)),
    "BCEWithLogitsLoss": Case(lambda: pylayers.BCEWithLogitsLoss(pos_weight=torch.rand(5)), _probabilities),
    "Bilinear": Case(lambda: pylayers.Bilinear(4, 3, 5), lambda b, t: (normal(b, t, 4), normal(b, t, 3)), free=((0, 1),)),
    "CenteredAffine": Case(lambda: pylayers.CenteredAffine(4, dim=1), _sequence(4), free=((0, 1),)),
    "CenteredLayer": Case(lambda: pylayers.CenteredLayer(), _sequence(4), free=((0, 1),)),
    "CrossEntropyLoss": Case(lambda: pylayers.CrossEntropyLoss(), _classes(5)),
    "DropoutAdd": Case(lambda: pylayers.DropoutAdd(0.5), _twice(4), free=((0, 1),)),
    "FixedLinear": Case(lambda: pylayers.FixedLinear(4, 6, activation="relu"), _sequence(4), free=((0, 1),)),
    "GatedMLP": Case(lambda: pylayers.GatedMLP(4, 6, bias=True), _sequence(4), free=((0, 1),)),
    "GroupNorm": Case(lambda: pylayers.GroupNorm(2, 4), _normal(4, 6)),
    "HalveUntil": Case(lambda: pylayers.HalveUntil(), _sequence(4), free=((0, 1),)),
    "KLDivLoss": Case(lambda: pylayers.KLDivLoss(reduction="batchmean"), _probabilities),
    "LayerNorm": Case(lambda: pylayers.LayerNorm((2, 4), 1e-3), _normal(2, 4)),
    "LazyAddLayerNorm": Case(lambda: pylayers.LazyAddLayerNorm(), _twice(8), free=((0, 1),)),
    "LazyAddRMSNorm": Case(lambda: pylayers.LazyAddRMSNorm(), _twice(8), free=((0, 1),)),
    "LazyBilinear": Case(lambda: pylayers.LazyBilinear(5), lambda b, t: (normal(b, 4), normal(b, 3))),
    "LazyCenteredAffine": Case(lambda: pylayers.LazyCenteredAffine(scale=False), _normal(4)),
    "LazyFixedLinear": Case(lambda: pylayers.LazyFixedLinear(6), _normal(4)),
    "LazyGatedMLP": Case(lambda: pylayers.LazyGatedMLP(6, activation="gelu"), _normal(4)),
    "LazyGroupNorm": Case(lambda: pylayers.LazyGroupNorm(2, activation="silu"), _normal(4, 2, 3)),
    "LazyLayerNorm": Case(lambda: pylayers.LazyLayerNorm(bias=False), _normal(4)),
    "LazyLinear": Case(lambda: pylayers.LazyLinear(6, activation="gelu"), _normal(4)),
    "LazyLinearCrossEntropyLoss": Case(lambda: pylayers.LazyLinearCrossEntropyLoss(5, bias=True, reduction="sum"), _hidden(4, 5)),
    "LazyRMSNorm": Case(lambda: pylayers.LazyRMSNorm(), _normal(4)),
    "LazyScaledLinear": Case(lambda: pylayers.LazyScaledLinear(6, -2.0), _normal(4)),
    "LazyTensorReduction": Case(lambda: pylayers.LazyTensorReduction(3, bias=True), _normal(4)),
    "LeadingFourier": Case(lambda: pylayers.LeadingFourier(3, norm="ortho"), _normal(2, 8)),
    "Linear": Case(lambda: pylayers.Linear(4, 6), _sequence(4), free=((0, 1),)),
    "LinearCrossEntropyLoss": Case(lambda: pylayers.LinearCrossEntropyLoss(4, 5), _hidden(4, 5)),
    "LogSoftmax": Case(lambda: pylayers.LogSoftmax(-1), _sequence(4), free=((0, 1),)),
    "MSELoss": Case(lambda: pylayers.MSELoss(), _twice(4), free=((0, 1),)),
    "Parallel": Case(
        lambda: pylayers.Parallel(pylayers.Linear(4, 3), pylayers.Linear(4, 2, bias=False), pylayers.Linear(4, 2)),
        _sequence(4),
        free=((0, 1),),
    ),
    "RMSNorm": Case(lambda: pylayers.RMSNorm(8, 1e-3), _sequence(8), free=((0, 1),)),
    "RotaryEmbedding": Case(
        lambda: pylayers.RotaryEmbedding(8, 32), _heads(("B", "T", 4, 8), ("B", "T", 2, 8)), free=((0, 1),)
    ),
    "ScaledLinear": Case(lambda: pylayers.ScaledLinear(4, 6, 0.5, activation="tanh"), _sequence(4), free=((0, 1),)),
    "Softmax": Case(lambda: pylayers.Softmax(1), _sequence(4), free=((0, 1),)),
    "TensorReduction": Case(lambda: pylayers.TensorReduction(4, 3, symmetric=True), _sequence(4), free=((0, 1),)),
}

# What layers have in other configurations, and ops without a layer.
VARIANTS: dict[str, Case] = {
    "RMSNorm without weight": Case(lambda: pylayers.RMSNorm((2, 4), elementwise_affine=False), _normal(2, 4)),
    "LayerNorm without weight": Case(lambda: pylayers.LayerNorm(4, elementwise_affine=False), _normal(4)),
    "AddRMSNorm with a wide residual": Case(
        lambda: pylayers.AddRMSNorm(8, residual_dtype=torch.float32, dtype=torch.bfloat16),
        lambda b, t: (normal(b, t, 8, dtype=torch.bfloat16), normal(b, t, 8, seed=1)),
        free=((0, 1),),
    ),
    "GroupNorm without weight": Case(lambda: pylayers.GroupNorm(4, 4, affine=False), _normal(4, 6)),
    "GroupNorm of vectors": Case(lambda: pylayers.GroupNorm(2, 8, activation="silu"), _normal(8)),
    "GatedMLP relu": Case(lambda: pylayers.GatedMLP(4, 6, activation="relu"), _normal(4)),
    "GatedMLP gelu_tanh": Case(lambda: pylayers.GatedMLP(4, 6, activation="gelu_tanh"), _normal(4)),
    "swiglu_packed": Case(lambda: Call(F.swiglu_packed), _sequence(6), free=((0, 1),)),
    "geglu_packed": Case(lambda: Call(F.geglu_packed, approximate="tanh"), _normal(6)),
    "reglu_packed": Case(lambda: Call(F.reglu_packed), _normal(6)),
    "relu_squared": Case(lambda: Call(F.relu_squared), _normal(6)),
    "Linear silu": Case(lambda: pylayers.Linear(4, 6, activation="silu"), _normal(4)),
    "Linear sigmoid": Case(lambda: pylayers.Linear(4, 6, bias=False, activation="sigmoid"), _normal(4)),
    "Linear gelu_tanh": Case(lambda: pylayers.Linear(4, 6, activation="gelu_tanh"), _normal(4)),
    "parallel_linear": Case(
        lambda: Call(_side_by_side, normal(600, 9), normal(600, 9, seed=1), normal(600)),
        lambda b, t: (normal(64 * b, 9),),
    ),
    "Softmax of a number": Case(lambda: Call(lambda x: F.softmax(x.sum(), 0)), _normal(4)),
    "LogSoftmax first": Case(lambda: pylayers.LogSoftmax(0), _normal(4)),
    "scaled_masked_softmax": Case(lambda: Call(F.scaled_masked_softmax, scale=0.5), _mask, free=((0, 2, 3),)),
    "scaled_masked_softmax causal": Case(lambda: Call(F.scaled_masked_softmax, causal=True), _added_mask, free=((0, 2, 3), (0, 1))),
    "scaled_masked_softmax plain": Case(
        lambda: Call(F.scaled_masked_softmax, scale=2.0, causal=True), lambda b, t: (normal(b, t, t + 2),), free=((0, 1, 2),)
    ),
    "CrossEntropyLoss weights": Case(
        lambda: pylayers.CrossEntropyLoss(torch.rand(5), ignore_index=1, label_smoothing=0.1, z_loss=1e-2, softcap=2.0),
        _classes(5, 4, ignored=1),
    ),
    "CrossEntropyLoss none": Case(lambda: pylayers.CrossEntropyLoss(reduction="none", z_loss=0.1), _classes(5, 2, 3)),
    "CrossEntropyLoss probabilities": Case(lambda: pylayers.CrossEntropyLoss(torch.rand(5), label_smoothing=0.1), _probabilities),
    "CrossEntropyLoss of a row": Case(
        lambda: Call(lambda x, t: F.cross_entropy(x[0], t[1], label_smoothing=0.2)), _classes(5)
    ),
    "LinearCrossEntropyLoss further": Case(
        lambda: pylayers.LinearCrossEntropyLoss(4, 5, out_features=(2, 3), bias=True, weight=torch.rand(5), reduction="none", softcap=3.0),
        _hidden(4, 5, 2, 3),
    ),
    "LinearCrossEntropyLoss probabilities": Case(
        lambda: pylayers.LinearCrossEntropyLoss(4, 5, z_loss=1e-2), lambda b, t: (normal(b, 4), normal(b, 5).softmax(-1))
    ),
    "linear_kl_div": Case(
        lambda: Call(lambda x, y, v, w: F.linear_kl_div(x, v, y, w, student_bias=v[:, 0], temperature=2.0), normal(7, 4), normal(7, 6)),
        lambda b, t: (normal(b, 4), normal(b, 6)),
    ),
    "MSELoss none": Case(lambda: Call(F.mse_loss, reduction="none"), _twice(4), free=((0, 1),)),
    "mse_loss weights": Case(
        lambda: Call(lambda x, y, w: F.mse_loss(x, y, weight=w.expand_as(x), reduction="sum"), normal(4)), _twice(4), free=((0, 1),)
    ),
    "BCEWithLogitsLoss weights": Case(
        lambda: pylayers.BCEWithLogitsLoss(torch.rand(5), reduction="none"), lambda b, t: (60 * normal(b, 5), normal(b, 5).sigmoid())
    ),
    "KLDivLoss logarithms": Case(lambda: pylayers.KLDivLoss(log_target=True, reduction="mean"), _twice(4), free=((0, 1),)),
    "KLDivLoss with zeros": Case(lambda: pylayers.KLDivLoss(reduction="sum"), lambda b, t: (normal(b, 4), normal(b, 4).relu())),
    "rotary interleaved": Case(
        lambda: pylayers.RotaryEmbedding(8, 32, interleaved=True, heads_first=True),
        _heads(("B", 4, "T", 8), ("B", 2, "T", 8)),
        free=((0, 2),),
    ),
    "rotary positions": Case(lambda: pylayers.RotaryEmbedding(8, 32), _with_positions, free=((0, 1),)),
    "rotary of a part": Case(lambda: pylayers.RotaryEmbedding(4, 32), _heads(("B", "T", 2, 8), ("B", "T", 2, 8)), free=((0, 1),)),
    "rotary of a part interleaved": Case(
        lambda: pylayers.RotaryEmbedding(4, 32, interleaved=True, heads_first=True),
        _heads(("B", 2, "T", 8), ("B", 2, "T", 8)),
        free=((0, 2),),
    ),
    "rotary without batch": Case(lambda: pylayers.RotaryEmbedding(8, 32), _heads(("T", 4, 8), ("T", 2, 8)), free=((0,),)),
    "rotary by token": Case(
        lambda: Call(_rotated_by_table),
        lambda b, t: (*_heads(("B", 2, "T", 8), ("B", 1, "T", 8))(b, t), normal(b, t, 4).cos(), normal(b, t, 4).sin()),
        free=((0, 2), (0, 2), (0, 1)),
    ),
    "TensorReduction full": Case(lambda: pylayers.TensorReduction(4, 3, bias=True), _normal(4)),
    "CenteredLayer of rows": Case(lambda: pylayers.CenteredLayer(dim=(1, 2)), _normal(3, 4)),
    "HalveUntil halves": Case(lambda: pylayers.HalveUntil(threshold=1e-3), _normal(4)),
    "HalveUntil overflows": Case(lambda: Call(lambda x: F.halve_until(x * 1e37, 3.0)), _normal(64)),
    "HalveUntil of infinity": Case(lambda: Call(lambda x: F.halve_until(x / 0.0, 3.0)), _normal(4)),
    "leading_fourier one-sided": Case(lambda: Call(F.leading_fourier, onesided=True, dim=1, norm="forward"), _normal(6, 2)),
    "leading_fourier": Case(lambda: Call(F.leading_fourier), _normal(9)),
}


def _in(dtype: torch.dtype, case: Case) -> Case:
    def inputs(batch: int, tokens: int):
        return tuple(one.to(dtype) if one.is_floating_point() else one for one in case.inputs(batch, tokens))

    return replace(case, make=lambda: case.make().to(dtype), inputs=inputs)


# Without products of bfloat16, which onnxruntime does not have on a CPU.
KINDS = {
    torch.float64: ["AddRMSNorm", "LayerNorm", "GroupNorm", "geglu_packed", "RotaryEmbedding", "HalveUntil halves", "BCEWithLogitsLoss weights"],
    torch.float16: ["AddRMSNorm", "GroupNorm", "RotaryEmbedding", "CrossEntropyLoss weights"],
    torch.bfloat16: ["AddRMSNorm", "geglu_packed", "LogSoftmax", "RotaryEmbedding", "HalveUntil halves", "scaled_masked_softmax plain"],
}
OTHERS = {f"{name} in {str(dtype)[6:]}": _in(dtype, {**LAYERS, **VARIANTS}[name]) for dtype, names in KINDS.items() for name in names}
CASES = {**LAYERS, **VARIANTS, **OTHERS}
# Lazy layers that have seen data are the plain ones.
DISTINCT = [name for name in CASES if not name.startswith("Lazy")]
