import math
from typing import Any

import torch
from torch import Tensor

from .. import functional
from .lazy import Lazy
from .linear import LazyLinear, Linear


class LinearCrossEntropyLoss(torch.nn.Module):
    r"""A linear map and the cross entropy of its logits, which never exist as a whole, with the arguments and the state_dict of
    `torch.nn.LinearCrossEntropyLoss` (torch 2.13 and later; here with every torch).

    .. math:: \ell = \mathrm{CrossEntropy}(h W^\top + b,\ \mathrm{target})

    Args:
        in_features: size of the last dimension of input.
        num_classes: :math:`C`.
        out_features: further dimensions :math:`(d_1, \dots, d_K)` of the targets of a row.
        bias: whether the linear map has a bias.
        device, dtype: of its parameters.
        reduction: "none", "mean" or "sum".
        weight: of the classes: a buffer; ones if None.
        ignore_index: a row with this target counts for nothing; -100 if None.
        label_smoothing: the share of the probability that is spread evenly over all classes.
        options: a `torch.nn.LinearCrossEntropyOptions`, of which the number of rows in a chunk is taken; None for our own choice.
        z_loss, softcap: see `pylayers.functional.cross_entropy`.
        chunk_rows: rows whose logits exist at once; None for as many as a memory budget allows.

    To share the weight with an embedding: ``loss.linear.weight = embedding.weight``. The logits, where they are wanted:
    ``loss.linear(hidden)``.

    Shape: see `pylayers.functional.linear_cross_entropy`; for input of more dimensions, ``loss(hidden.flatten(0, -2), target.flatten())``.

    Dtypes, errors, source: see `pylayers.functional.linear_cross_entropy`.

    Equivalent to:
        >>> torch.nn.functional.cross_entropy(torch.nn.Linear(in_features, num_classes, bias=False)(input), target)
    """

    __constants__ = ["num_classes", "out_features", "reduction", "ignore_index", "label_smoothing", "z_loss", "softcap", "chunk_rows"]

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        out_features: tuple[int, ...] = (),
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        reduction: str = "mean",
        weight: Tensor | None = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        options: Any = None,
        z_loss: float = 0.0,
        softcap: float | None = None,
        chunk_rows: int | None = None,
    ) -> None:
        super().__init__()
        if weight is not None and weight.shape != (num_classes,):
            raise ValueError(f"LinearCrossEntropyLoss: weight must have shape ({num_classes},), got {tuple(weight.shape)}")
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"LinearCrossEntropyLoss: label_smoothing must be between 0 and 1, got {label_smoothing}")
        self.num_classes = num_classes
        self.out_features = tuple(out_features)
        self.reduction = reduction
        self.register_buffer("weight", weight)
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing
        self.options = options
        self.z_loss = z_loss
        self.softcap = softcap
        self.chunk_rows = chunk_rows
        self.linear = Linear(in_features, math.prod(self.out_features, start=num_classes), bias, device, dtype)

    def reset_parameters(self) -> None:
        """Draws the parameters of the linear map as torch.nn.Linear does."""
        self.linear.reset_parameters()

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        shape, linear = (self.num_classes, *self.out_features), self.linear
        return functional.linear_cross_entropy(
            input,
            linear.weight.reshape(*shape, linear.in_features),
            target,
            linear_bias=None if linear.bias is None else linear.bias.reshape(shape),
            **self._loss_options(),
        )

    def _loss_options(self) -> dict:
        names = ("weight", "reduction", "ignore_index", "label_smoothing", "z_loss", "softcap")
        chunk_rows = self.chunk_rows or getattr(self.options, "batch_chunk_size", None)
        return {**{name: getattr(self, name) for name in names}, "chunk_rows": chunk_rows}

    def config(self) -> dict:
        """The arguments that build it again: `pylayers.io` saves them. `options` is saved as the rows of its chunks."""
        own = self.linear
        kept = {"in_features": own.in_features, "num_classes": self.num_classes, "out_features": self.out_features, "bias": own.bias is not None}
        return {**kept, **self._loss_options(), "dtype": own.weight.dtype}

    def extra_repr(self) -> str:
        usual = {"reduction": "mean", "ignore_index": None, "label_smoothing": 0.0, "z_loss": 0.0, "softcap": None, "chunk_rows": None}
        given = {name: getattr(self, name) for name, value in usual.items() if getattr(self, name) != value}
        shape = {"num_classes": self.num_classes, **({"out_features": self.out_features} if self.out_features else {})}
        return ", ".join(f"{name}={value!r}" for name, value in {**shape, **given}.items())


class LazyLinearCrossEntropyLoss(Lazy, LinearCrossEntropyLoss):
    """`LinearCrossEntropyLoss` that takes in_features from the first input.

    Args:
        num_classes and the others: see `LinearCrossEntropyLoss`.

    Source, promises: see `pylayers.modules.lazy`.

    Equivalent to:
        >>> LinearCrossEntropyLoss(input.shape[-1], num_classes)
    """

    cls_to_become = LinearCrossEntropyLoss

    def __init__(
        self,
        num_classes: int,
        *,
        out_features: tuple[int, ...] = (),
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **others: Any,
    ) -> None:
        super().__init__(1, num_classes, out_features=out_features, device="meta", **others)
        self.linear = LazyLinear(self.linear.out_features, bias, device, dtype)

    reset_parameters = LinearCrossEntropyLoss.reset_parameters

    def sizes_of_input(self, input: Tensor, target: Tensor) -> dict[str, int]:
        """None of its own: the linear map initialises itself, but is not called."""
        if isinstance(self.linear, LazyLinear):
            self.linear._infer_parameters(self.linear, (input,))
        return {}

    def config(self) -> dict:
        return {name: value for name, value in super().config().items() if name != "in_features"}
