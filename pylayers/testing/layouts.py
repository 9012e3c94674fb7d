"""Ways for a tensor to lie in memory. What is between its elements is NaN, so that reading it shows."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

NAN = float("nan")


def strided_rows(x: Tensor) -> Tensor:
    dim = x.shape[-1]
    return pad(x, (1, dim + 2), value=NAN)[..., 1 : dim + 1]


def misaligned(x: Tensor) -> Tensor:
    return pad(x.reshape(-1), (1, 0), value=NAN)[1:].view(x.shape)


def transposed(x: Tensor) -> Tensor:
    return x.transpose(0, -1).contiguous().transpose(0, -1)


def every_other_column(x: Tensor) -> Tensor:
    return torch.stack([x, torch.full_like(x, NAN)], -1).flatten(-2)[..., ::2]


def expanded(x: Tensor) -> Tensor:
    """The first row, for all rows."""
    return x[:1].expand(x.shape)


# Differentiable functions of a tensor with a dimension at least. All keep its values, but the last.
LAYOUTS = {
    "strided rows": strided_rows,
    "misaligned": misaligned,
    "transposed": transposed,
    "every other column": every_other_column,
    "expanded": expanded,
}
