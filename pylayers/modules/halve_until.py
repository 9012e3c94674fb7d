from torch import Tensor, nn

from .. import functional


class HalveUntil(nn.Module):
    r"""Halves the input until the sum of its absolute values is at most `threshold`. It has no parameters.

    .. math:: y = x \cdot 2^{-k}, \quad k = \min \{k \ge 0 : \textstyle\sum |x| \cdot 2^{-k} \le \text{threshold}\}

    Args:
        threshold: positive and finite.

    Shape: input, output: :math:`(*)`.

    Dtypes, errors, source, what happens to inf and nan and in backward: see `pylayers.functional.halve_until`.

    Equivalent to:
        >>> while input.abs().sum() > threshold:
        ...     input = input / 2
    """

    __constants__ = ["threshold"]

    def __init__(self, threshold: float = 1.0) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, input: Tensor) -> Tensor:
        return functional.halve_until(input, self.threshold)

    def extra_repr(self) -> str:
        return f"threshold={self.threshold}"
