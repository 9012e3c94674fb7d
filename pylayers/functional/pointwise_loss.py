import warnings

from torch import Tensor
from torch.nn import _reduction

from ..door import door

_mse_loss = door("mse_loss")
_binary_cross_entropy_with_logits = door("binary_cross_entropy_with_logits")
_kl_div = door("kl_div")


def _named(reduction: str, size_average: bool | None, reduce: bool | None) -> str:
    return reduction if size_average is None and reduce is None else _reduction.legacy_get_string(size_average, reduce)


def _warn_of_shapes(name: str, input: Tensor, target: Tensor) -> None:
    """As torch does, whose call is wrong more often than meant."""
    if isinstance(input, Tensor) and isinstance(target, Tensor) and input.shape != target.shape:
        shapes = f"target has shape {tuple(target.shape)} and input {tuple(input.shape)}"
        warnings.warn(f"{name}: {shapes}: they are broadcast, which is seldom what is wanted: give both the same shape", stacklevel=3)


def mse_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    r"""Squared differences, their mean or their sum, in one pass over both.

    .. math:: \ell = w\, (x - t)^2

    Nothing of the size of the input is kept for the gradients, which are one more pass.

    Args:
        input, target: numbers and what they should be.
        size_average, reduce: deprecated, as in torch.
        reduction: "none", "mean" over all elements, or "sum".
        weight: :math:`w`, of the shape of input; ones if None. The mean does not divide by it.

    Shape: input, target: :math:`(*)`, broadcast with a warning where they differ; output: a scalar, or :math:`(*)` with "none".

    Dtypes: float64, float32, float16, bfloat16; input and target promote each other as in torch, and the output has their common
    dtype. Computed in float32 (float64 for float64); float32 under autocast.

    Gradients: of input and target by the kernels. Where weight requires one, the call is computed by plain PyTorch.

    Raises:
        TypeError: not floating point.
        ValueError: a weight of another shape, an unknown reduction.
        RuntimeError: shapes that do not broadcast, several devices, or the chosen backend cannot serve the device.

    Source: Gauss, Theoria motus corporum coelestium, 1809.

    Equivalent to:
        >>> torch.nn.functional.mse_loss(input, target, reduction=reduction, weight=weight)
    """
    _warn_of_shapes("mse_loss", input, target)
    return _mse_loss(input, target, _named(reduction, size_average, reduce), weight)


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    r"""The cross entropy of independent yes-or-no questions whose logits are given, in one pass over both.

    .. math:: \ell = -w\, (p\, t \ln \sigma(x) + (1 - t) \ln (1 - \sigma(x)))

    Computed without what cancels, so that losses near 0 keep their digits. Nothing of the size of the input is kept for the
    gradients, which are one more pass.

    Args:
        input: logits.
        target: probabilities of a yes.
        weight: :math:`w`, broadcast to the shape of input; ones if None. The mean does not divide by it.
        size_average, reduce: deprecated, as in torch.
        reduction: "none", "mean" over all elements, or "sum".
        pos_weight: :math:`p`, what a yes counts, broadcast to the shape of input; ones if None.

    Shape: input, target: :math:`(*)`; output: a scalar, or :math:`(*)` with "none".

    Dtypes: float64, float32, float16, bfloat16; input and target promote each other as in torch, and the output has their common
    dtype. Computed in float32 (float64 for float64); float32 under autocast.

    Gradients: of input and target by the kernels. Where weight or pos_weight requires one, the call is computed by plain PyTorch.

    Raises:
        TypeError: not floating point.
        ValueError: two shapes, weights that cannot be broadcast, an unknown reduction.
        RuntimeError: several devices, or the chosen backend cannot serve the device.

    Source: Cox, The Regression Analysis of Binary Sequences, 1958.

    Equivalent to:
        >>> torch.nn.functional.binary_cross_entropy_with_logits(input, target, weight, reduction=reduction, pos_weight=pos_weight)
    """
    return _binary_cross_entropy_with_logits(input, target, weight, _named(reduction, size_average, reduce), pos_weight)


def kl_div(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> Tensor:
    r"""The terms of the Kullback-Leibler divergence of log-probabilities from a target, in one pass over both.

    .. math:: \ell = t\, (\ln t - x), \quad 0 \text{ for } t = 0; \qquad \ell = e^t (t - x) \text{ with log\_target}

    Args:
        input: log-probabilities.
        target: probabilities, or their logarithms with log_target.
        size_average, reduce: deprecated, as in torch.
        reduction: "none", "mean" over all elements, "batchmean" (the divergence: the sum divided by the first size), or "sum".
        log_target: whether target is given in logarithms.

    Shape: input, target: :math:`(*)`, broadcast with a warning where they differ; output: a scalar, or :math:`(*)` with "none".

    Dtypes: float64, float32, float16, bfloat16; input and target promote each other as in torch, and the output has their common
    dtype. Computed in float32 (float64 for float64); float32 under autocast.

    Raises:
        TypeError: not floating point.
        ValueError: an unknown reduction.
        RuntimeError: shapes that do not broadcast, several devices, or the chosen backend cannot serve the device.

    Source: Kullback and Leibler, On Information and Sufficiency, 1951.

    Equivalent to:
        >>> torch.nn.functional.kl_div(input, target, reduction=reduction, log_target=log_target)
    """
    _warn_of_shapes("kl_div", input, target)
    return _kl_div(input, target, _named(reduction, size_average, reduce), log_target)
