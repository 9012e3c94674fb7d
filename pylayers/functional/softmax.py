import warnings

import torch
from torch import Tensor

from ..door import door

_softmax, _log_softmax, _scaled_masked_softmax = door("softmax"), door("log_softmax"), door("scaled_masked_softmax")


def _chosen(name: str, input: Tensor, dim: int | None, dtype: torch.dtype | None) -> tuple[Tensor, int]:
    """The input in the dtype that is asked for, and the dimension; where it is left out the one that torch takes."""
    if dim is None:
        warnings.warn(f"{name}: the choice of dim by the number of dimensions is deprecated, pass dim", stacklevel=3)
        dim = 0 if input.dim() in (0, 1, 3) else 1
    return (input if dtype is None else input.to(dtype)), dim


def softmax(input: Tensor, dim: int | None = None, dtype: torch.dtype | None = None) -> Tensor:
    r"""Exponentials that sum to one along a dimension.

    .. math:: y_i = \frac{e^{x_i}}{\sum_j e^{x_j}}

    The largest number of a row is subtracted first, so that nothing overflows. Rows that are :math:`-\infty` altogether, hold a
    nan or :math:`+\infty`, are nan, as in torch. The backward needs the output alone. A dimension that is not the last one is
    walked along without a transposed copy.

    Args:
        input: any shape, with any strides.
        dim: the dimension of the sum. If None, 0 for inputs of 0, 1 or 3 dimensions and 1 for others, with a warning, as in torch.
        dtype: the input is cast to it first; its own if None.

    Shape: input, output: :math:`(*)`.

    Dtypes: float64, float32, float16, bfloat16; computed in float32 (float64 for float64).

    Raises:
        TypeError: not floating point.
        ValueError: no such dimension.
        RuntimeError: the chosen backend cannot serve the device.

    Source: Milakov and Gimelshein, Online normalizer calculation for softmax, 2018, for rows that are read in pieces.

    Equivalent to:
        >>> torch.nn.functional.softmax(input, dim, dtype=dtype)
    """
    if dim is None or dtype is not None:
        input, dim = _chosen("softmax", input, dim, dtype)
    return _softmax(input, dim)


def log_softmax(input: Tensor, dim: int | None = None, dtype: torch.dtype | None = None) -> Tensor:
    r"""The logarithm of `softmax`, without its rounding to zero.

    .. math:: y_i = x_i - \ln \sum_j e^{x_j}

    Args:
        input: any shape, with any strides.
        dim: the dimension of the sum. If None, 0 for inputs of 0, 1 or 3 dimensions and 1 for others, with a warning, as in torch.
        dtype: the input is cast to it first; its own if None.

    Shape, dtypes, errors, source: as `softmax`.

    Equivalent to:
        >>> torch.nn.functional.log_softmax(input, dim, dtype=dtype)
    """
    if dim is None or dtype is not None:
        input, dim = _chosen("log_softmax", input, dim, dtype)
    return _log_softmax(input, dim)


def scaled_masked_softmax(input: Tensor, mask: Tensor | None = None, scale: float = 1.0, causal: bool = False) -> Tensor:
    r"""The softmax of attention scores, scaled and masked on the way.

    .. math:: y = \mathrm{softmax}(\text{scale} \cdot x + \text{mask})

    A mask is read where it lies, also where it is broadcast over leading dimensions or over queries. Keys that nobody may attend
    because of `causal` are not read at all. A query that may attend nothing, all of whose scores are :math:`-\infty`, gets zeros,
    and so does its gradient, as in `torch.nn.functional.scaled_dot_product_attention`.

    Args:
        input: scores.
        mask: broadcasts to the scores. Bool: True where a query may attend a key. Of the dtype of input: added to the scaled scores.
        scale: of the scores.
        causal: query q attends keys :math:`k \le q + \text{keys} - \text{queries}`: the last query sees every key, as in
            `torch.nn.attention.bias.causal_lower_right`. `is_causal` of torch counts from the first key instead, which is the same
            for as many queries as keys.

    Shape: input, output :math:`(*, \text{queries}, \text{keys})`.

    Dtypes: float64, float32, float16, bfloat16; computed in float32 (float64 for float64).

    Gradients: of input by the kernels. Where an additive mask requires a gradient, the call is computed by plain PyTorch.

    Raises:
        TypeError: input is not floating point, or mask is neither bool nor of its dtype.
        ValueError: fewer than two dimensions, or a mask that does not broadcast.
        RuntimeError: two devices, or the chosen backend cannot serve the device.

    Source: Vaswani et al., Attention Is All You Need, 2017.

    Equivalent to:
        >>> scores = input * scale + mask  # or (input * scale).masked_fill(~mask, -torch.inf)
        >>> later = torch.ones(queries, keys, dtype=torch.bool).triu(keys - queries + 1)  # causal
        >>> torch.softmax(scores.masked_fill(later, -torch.inf), -1)
    """
    return _scaled_masked_softmax(input, mask, scale, causal)
