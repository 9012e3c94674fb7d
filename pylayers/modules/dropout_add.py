from torch import Tensor, nn

from .. import functional


class DropoutAdd(nn.Module):
    r"""Dropout of the input, added to a residual stream. It has no parameters, and in evaluation it is a plain sum.

    .. math:: y = \text{residual} + \frac{m \odot x}{1 - p}, \quad m_i = 0 \text{ with probability } p \text{, else } 1

    Args:
        p: the probability that an element of the input is dropped.

    Shape: input, residual, output: :math:`(*)`, all the same.

    Raises:
        ValueError: p is not between 0 and 1.

    Dtypes, further errors, source, random numbers: see `pylayers.functional.dropout_add`.

    Equivalent to (in distribution):
        >>> residual + torch.nn.Dropout(p)(input)
    """

    __constants__ = ["p"]

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"DropoutAdd: p must be a probability between 0 and 1, got {p}")
        self.p = p

    def forward(self, input: Tensor, residual: Tensor) -> Tensor:
        return functional.dropout_add(input, residual, self.p, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}"
