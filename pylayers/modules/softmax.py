from torch import Tensor, nn

from .. import functional


class Softmax(nn.Module):
    r"""Exponentials that sum to one along a dimension, with the argument of `torch.nn.Softmax`.

    .. math:: y_i = \frac{e^{x_i}}{\sum_j e^{x_j}}

    Args:
        dim: the dimension of the sum. If None, 0 for inputs of 0, 1 or 3 dimensions and 1 for others, with a warning, as in torch.

    Shape: input, output: :math:`(*)`.

    Dtypes, errors, source: see `pylayers.functional.softmax`.

    Equivalent to:
        >>> torch.nn.Softmax(dim)
    """

    __constants__ = ["dim"]

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: Tensor) -> Tensor:
        return functional.softmax(input, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class LogSoftmax(nn.Module):
    r"""The logarithm of `Softmax`, with the argument of `torch.nn.LogSoftmax`.

    .. math:: y_i = x_i - \ln \sum_j e^{x_j}

    Args:
        dim: the dimension of the sum. If None, 0 for inputs of 0, 1 or 3 dimensions and 1 for others, with a warning, as in torch.

    Shape: input, output: :math:`(*)`.

    Dtypes, errors, source: see `pylayers.functional.log_softmax`.

    Equivalent to:
        >>> torch.nn.LogSoftmax(dim)
    """

    __constants__ = ["dim"]

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: Tensor) -> Tensor:
        return functional.log_softmax(input, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"
