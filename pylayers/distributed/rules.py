"""How ops may be cut into shards that work alone: the sharding rule of every op, for DTensor.

A rule is given the arguments of an op by name, tensors as what DTensor knows of them, and yields ways to place the tensors along one
dimension of a mesh. Beside these every op may run with all of its tensors replicated, which is what DTensor brings them to if no other
way fits. Rows that are sharded stay so: none of these ways moves anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace as Arguments
from typing import NamedTuple

from torch.distributed.tensor import Partial, Placement, Replicate, Shard


class Cut(NamedTuple):
    """Placements of the outputs, and of inputs by name. Inputs that are not named are replicated."""

    outputs: list[Placement]
    inputs: dict[str, Placement]


Rule = Callable[[Arguments], Iterator[Cut]]
RULES: dict[str, Rule] = {}


def rule(*ops: str) -> Callable[[Rule], Rule]:
    def add(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(ops, function))
        return function

    return add


def asked(mask: list[bool], *placements: Placement) -> list[Placement]:
    """Of outputs that may not be wanted: those that are not have no elements."""
    return [placement if wanted else Replicate() for wanted, placement in zip(mask, placements, strict=True)]


def all_along(dims: range, outputs: int, *inputs: str) -> Iterator[Cut]:
    """Each dimension may be sharded, in all of these tensors alike."""
    for dim in dims:
        yield Cut([Shard(dim)] * outputs, dict.fromkeys(inputs, Shard(dim)))


# ---- norms: rows are all dimensions before the normalised ones


@rule("rms_norm_forward", "layer_norm_forward", "add_rms_norm_forward", "add_layer_norm_forward")
def norm_forward(own: Arguments) -> Iterator[Cut]:
    added = hasattr(own, "residual")
    statistics = (2 if hasattr(own, "bias") else 1) * [own.save]
    for dim in range(own.input.ndim - own.dims):
        rows = Shard(dim)
        outputs = [rows, *([rows] if added else []), *asked(statistics, *[rows] * len(statistics))]
        yield Cut(outputs, {"input": rows, **({"residual": rows} if added else {})})


@rule("rms_norm_backward", "layer_norm_backward")
def norm_backward(own: Arguments) -> Iterator[Cut]:
    for dim in range(own.input.ndim - own.dims):
        rows = Shard(dim)
        sums = [Partial()] * (len(own.mask) - 1)
        yield Cut(asked(own.mask, rows, *sums), dict.fromkeys(("grad", "input", "mean", "rstd"), rows))


@rule("add_rms_norm_backward", "add_layer_norm_backward")
def add_norm_backward(own: Arguments) -> Iterator[Cut]:
    for dim in range(own.total.ndim - own.dims):
        rows = Shard(dim)
        sums = [Partial()] * (len(own.mask) - 2)
        yield Cut(asked(own.mask, rows, rows, *sums), dict.fromkeys(("grad", "dtotal", "total", "mean", "rstd"), rows))


@rule("group_norm_forward")
def group_norm_forward(own: Arguments) -> Iterator[Cut]:
    yield from all_along(range(1), 3, "input")


@rule("group_norm_backward")
def group_norm_backward(own: Arguments) -> Iterator[Cut]:
    rows = Shard(0)
    yield Cut(asked(own.mask, rows, Partial(), Partial()), dict.fromkeys(("grad", "input", "mean", "rstd"), rows))


@rule("centered_forward")
def centered_forward(own: Arguments) -> Iterator[Cut]:
    """The dimension before those of the mean; and the last one, whose means nobody keeps in this order."""
    end = own.input.ndim - 1
    if own.first == 1 or (own.first > 1 and not own.save):
        yield Cut([Shard(0), Shard(0) if own.save else Replicate()], {"input": Shard(0)})
    if own.last <= end and not own.save:
        yield Cut([Shard(end), Replicate()], {"input": Shard(end), "weight": Shard(0), "bias": Shard(0)})


@rule("centered_affine_backward")
def centered_backward(own: Arguments) -> Iterator[Cut]:
    if own.dim == 1:
        rows = Shard(0)
        yield Cut(asked(own.mask, rows, Partial(), Partial()), dict.fromkeys(("grad", "input", "mean"), rows))


# ---- number by number, and along one dimension


@rule("gate_forward")
def gate_forward(own: Arguments) -> Iterator[Cut]:
    yield from all_along(range(own.gate.ndim), 1, "gate", "up")


@rule("gate_backward")
def gate_backward(own: Arguments) -> Iterator[Cut]:
    for dim in range(own.gate.ndim):
        yield Cut(asked(own.mask, Shard(dim), Shard(dim)), dict.fromkeys(("grad", "gate", "up"), Shard(dim)))


@rule("gate_packed_forward", "gate_packed_backward")
def gate_packed(own: Arguments) -> Iterator[Cut]:
    yield from all_along(range(own.input.ndim - 1), 1, "grad", "input")


@rule("halve_until_backward")
def halve_until_backward(own: Arguments) -> Iterator[Cut]:
    yield from all_along(range(own.grad.ndim), 1, "grad")


@rule("leading_fourier_backward")
def leading_fourier_backward(own: Arguments) -> Iterator[Cut]:
    yield from all_along(range(own.grad.ndim - 1), 1, "grad")


@rule("softmax_forward", "softmax_backward")
def softmax(own: Arguments) -> Iterator[Cut]:
    ndim = (own.input if hasattr(own, "input") else own.output).ndim
    for dim in range(ndim):
        if dim != own.dim % ndim:
            yield Cut([Shard(dim)], dict.fromkeys(("input", "grad", "output"), Shard(dim)))


@rule("softmax_masked_forward")
def softmax_masked_forward(own: Arguments) -> Iterator[Cut]:
    """Queries too, where nothing depends on which one they are."""
    ndim = own.input.ndim
    for dim in range(ndim - (2 if own.causal else 1)):
        inputs = {"input": Shard(dim)}
        if own.mask is not None:
            behind = dim - ndim + own.mask.ndim
            if behind >= 0 and own.mask.shape[behind] == own.input.shape[dim]:
                inputs["mask"] = Shard(behind)
        yield Cut([Shard(dim)], inputs)


@rule("softmax_masked_backward")
def softmax_masked_backward(own: Arguments) -> Iterator[Cut]:
    yield from all_along(range(own.output.ndim - (2 if own.causal else 1)), 1, "grad", "output")


@rule("rotary_rotate")
def rotary(own: Arguments) -> Iterator[Cut]:
    """Batch, heads, and tokens that bring their own rows of the tables, or the numbers of these rows."""
    given = [one for one in (own.q, own.k) if one is not None]
    both = [own.q is not None, own.k is not None]
    ndim = given[0].ndim
    head, token = (ndim - 3, ndim - 2) if own.heads_first else (ndim - 2, ndim - 3)

    def cut(dim: int, **others: Placement) -> Cut:
        return Cut(asked(both, Shard(dim), Shard(dim)), {"q": Shard(dim), "k": Shard(dim), **others})

    yield cut(head)
    tables, rows = own.cos.ndim - 2, own.cos.shape[own.cos.ndim - 2]
    if own.positions is not None:
        yield cut(token, positions=Shard(own.positions.ndim - 1))
    elif rows == given[0].shape[token]:
        yield cut(token, cos=Shard(tables), sin=Shard(tables))
    if ndim == 4:
        batch, others = given[0].shape[0], {}
        if own.cos.ndim == 3 and own.cos.shape[0] == batch:
            others.update(cos=Shard(0), sin=Shard(0))
        if own.positions is not None and own.positions.ndim == 2 and own.positions.shape[0] == batch:
            others.update(positions=Shard(0))
        yield cut(0, **others)


# ---- products: rows; columns, which are rows of the weight; and parts of the sum, whose results add up


@rule("linear_forward")
def linear_forward(own: Arguments) -> Iterator[Cut]:
    end = own.input.ndim - 1
    saved = bool(own.save and own.activation) and own.activation not in OF_OUTPUT
    for dim in range(end):
        yield Cut(asked([True, saved], Shard(dim), Shard(dim)), {"input": Shard(dim)})
    yield Cut(asked([True, saved], Shard(end), Shard(end)), {"weight": Shard(0), "bias": Shard(0)})
    if not own.activation:
        yield Cut([Partial(), Replicate()], {"input": Shard(end), "weight": Shard(1), "bias": Partial()})


# Activations whose derivative is a function of their result, which is then what is saved.
OF_OUTPUT = (1, 5, 6)


@rule("linear_backward")
def linear_backward(own: Arguments) -> Iterator[Cut]:
    end = own.input.ndim - 1
    kept = own.saved.ndim == own.grad.ndim  # else there is nothing in it
    for dim in range(end):
        rows = Shard(dim)
        yield Cut(asked(own.mask, rows, Partial(), Partial()), {"grad": rows, "input": rows, **({"saved": rows} if kept else {})})
    columns = {"grad": Shard(end), "weight": Shard(0), "bias": Shard(0), **({"saved": Shard(end)} if kept else {})}
    yield Cut(asked(own.mask, Partial(), Shard(0), Shard(0)), columns)
    yield Cut(asked(own.mask, Shard(end), Shard(1), Replicate()), {"input": Shard(end), "weight": Shard(1)})


@rule("linear_epilogue")
def linear_epilogue(own: Arguments) -> Iterator[Cut]:
    end = own.product.ndim - 1
    yield from all_along(range(end), 1, "product")
    yield Cut([Shard(end)], {"product": Shard(end), "bias": Shard(0)})


@rule("linear_epilogue_backward")
def linear_epilogue_backward(own: Arguments) -> Iterator[Cut]:
    end = own.grad.ndim - 1
    for dim in range(end):
        yield Cut(asked([True, own.mask[1]], Shard(dim), Partial()), {"grad": Shard(dim), "saved": Shard(dim)})
    yield Cut(asked([True, own.mask[1]], Shard(end), Shard(0)), {"grad": Shard(end), "saved": Shard(end), "bias": Shard(0)})


@rule("parallel_linear_forward")
def parallel_linear_forward(own: Arguments) -> Iterator[Cut]:
    yield from all_along(range(own.input.ndim - 1), 1, "input")


@rule("parallel_linear_backward")
def parallel_linear_backward(own: Arguments) -> Iterator[Cut]:
    for dim in range(own.input.ndim - 1):
        wanted = [own.mask[0], True, own.mask[1]]
        yield Cut(asked(wanted, Shard(dim), Partial(), Partial()), {"grad": Shard(dim), "input": Shard(dim)})


@rule("bilinear_forward")
def bilinear_forward(own: Arguments) -> Iterator[Cut]:
    end = own.input1.ndim - 1
    yield from all_along(range(end), 1, "input1", "input2")
    yield Cut([Shard(end)], {"weight": Shard(0), "bias": Shard(0)})


@rule("bilinear_backward")
def bilinear_backward(own: Arguments) -> Iterator[Cut]:
    end = own.grad.ndim - 1
    for dim in range(end):
        rows = Shard(dim)
        yield Cut(asked(own.mask, rows, rows, Partial(), Partial()), dict.fromkeys(("grad", "input1", "input2"), rows))
    yield Cut(asked(own.mask, Partial(), Partial(), Shard(0), Shard(0)), {"grad": Shard(end), "weight": Shard(0)})


@rule("tensor_reduction_forward")
def tensor_reduction_forward(own: Arguments) -> Iterator[Cut]:
    end = own.input.ndim - 1
    yield from all_along(range(end), 1, "input")
    yield Cut([Shard(end)], {"weight": Shard(0), "bias": Shard(0)})


@rule("tensor_reduction_backward")
def tensor_reduction_backward(own: Arguments) -> Iterator[Cut]:
    end = own.grad.ndim - 1
    for dim in range(end):
        yield Cut(asked(own.mask, Shard(dim), Partial(), Partial()), {"grad": Shard(dim), "input": Shard(dim)})
    yield Cut(asked(own.mask, Partial(), Shard(0), Shard(0)), {"grad": Shard(end), "weight": Shard(0)})


# ---- losses: rows. Of classes that are sharded, see losses.py


def _rows_of_logits(own: Arguments) -> Iterator[tuple[int, int, int]]:
    """Dimensions of the logits, of a number for each row, and of the target."""
    ndim = own.input.ndim
    classes = 0 if ndim == 1 else 1
    for dim in range(ndim):
        if dim != classes:
            row = dim - (dim > classes)
            yield dim, row, dim if own.target.ndim == ndim else row


@rule("cross_entropy_forward")
def cross_entropy_forward(own: Arguments) -> Iterator[Cut]:
    for dim, row, target in _rows_of_logits(own):
        yield Cut([Shard(row)] * 4, {"input": Shard(dim), "target": Shard(target)})


@rule("cross_entropy_backward")
def cross_entropy_backward(own: Arguments) -> Iterator[Cut]:
    for dim, row, target in _rows_of_logits(own):
        numbers = dict.fromkeys(("grad", "top", "scale", "share"), Shard(row))
        yield Cut([Shard(dim)], {"input": Shard(dim), "target": Shard(target), **numbers})


@rule("linear_cross_entropy_forward")
def linear_cross_entropy_forward(own: Arguments) -> Iterator[Cut]:
    if own.input.ndim == 2:
        gradients = asked(own.mask, Shard(0), Partial(), Partial())
        yield Cut([Shard(1)] * 4 + gradients, {"input": Shard(0), "target": Shard(0)})


@rule("linear_cross_entropy_backward")
def linear_cross_entropy_backward(own: Arguments) -> Iterator[Cut]:
    if own.input.ndim == 2:
        numbers = dict.fromkeys(("top", "scale", "share"), Shard(1))
        grad = {"grad": Shard(1)} if own.grad.ndim else {"dinput": Shard(0), "dweight": Partial(), "dbias": Partial()}
        yield Cut(asked(own.mask, Shard(0), Partial(), Partial()), {"input": Shard(0), "target": Shard(0), **numbers, **grad})


@rule("linear_kl_div_forward")
def linear_kl_div_forward(own: Arguments) -> Iterator[Cut]:
    gradients = asked(own.mask, Shard(0), Partial(), Partial())
    yield Cut([Shard(0), *gradients], {"input": Shard(0), "teacher": Shard(0)})


@rule("linear_kl_div_backward")
def linear_kl_div_backward(own: Arguments) -> Iterator[Cut]:
    grad = {"grad": Shard(0)} if own.grad.ndim else {"dinput": Shard(0), "dweight": Partial(), "dbias": Partial()}
    yield Cut(asked(own.mask, Shard(0), Partial(), Partial()), {"input": Shard(0), "teacher": Shard(0), **grad})


@rule("halve_until_forward")
def halve_until_forward(own: Arguments) -> Iterator[Cut]:
    """As a whole: its factor is one for all numbers."""
    yield from ()
