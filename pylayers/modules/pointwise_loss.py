import torch
from torch import Tensor

from .. import functional
from ..functional.pointwise_loss import _named


class MSELoss(torch.nn.Module):
    r"""The mean, or the sum, of squared differences, with the arguments of `torch.nn.MSELoss`.

    .. math:: \ell = (x - t)^2

    Args:
        size_average, reduce: deprecated, as in torch.
        reduction: "none", "mean" over all elements, or "sum".

    Shape: input, target: :math:`(*)`; output: a scalar, or :math:`(*)` with "none".

    Dtypes, errors, source: see `pylayers.functional.mse_loss`.

    Equivalent to:
        >>> torch.nn.MSELoss(reduction=reduction)
    """

    __constants__ = ["reduction"]

    def __init__(self, size_average: bool | None = None, reduce: bool | None = None, reduction: str = "mean") -> None:
        super().__init__()
        self.reduction = _named(reduction, size_average, reduce)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return functional.mse_loss(input, target, reduction=self.reduction)

    def config(self) -> dict:
        return {"reduction": self.reduction}

    def extra_repr(self) -> str:
        return "" if self.reduction == "mean" else f"reduction={self.reduction!r}"


class BCEWithLogitsLoss(torch.nn.Module):
    r"""The cross entropy of independent yes-or-no questions, with the arguments of `torch.nn.BCEWithLogitsLoss`.

    .. math:: \ell = -w\, (p\, t \ln \sigma(x) + (1 - t) \ln (1 - \sigma(x)))

    Args:
        weight, pos_weight: :math:`w` and :math:`p`, broadcast to the shape of input: buffers, as in torch; ones if None.
        size_average, reduce: deprecated, as in torch.
        reduction: "none", "mean" over all elements, or "sum".

    Shape: input, target: :math:`(*)`; output: a scalar, or :math:`(*)` with "none".

    Dtypes, errors, source: see `pylayers.functional.binary_cross_entropy_with_logits`.

    Equivalent to:
        >>> torch.nn.BCEWithLogitsLoss(weight, reduction=reduction, pos_weight=pos_weight)
    """

    __constants__ = ["reduction"]

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        pos_weight: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("pos_weight", pos_weight)
        self.reduction = _named(reduction, size_average, reduce)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(
            input, target, self.weight, reduction=self.reduction, pos_weight=self.pos_weight
        )

    def config(self) -> dict:
        return {name: getattr(self, name) for name in ("weight", "reduction", "pos_weight")}

    def extra_repr(self) -> str:
        return "" if self.reduction == "mean" else f"reduction={self.reduction!r}"


class KLDivLoss(torch.nn.Module):
    r"""The Kullback-Leibler divergence of log-probabilities from a target, with the arguments of `torch.nn.KLDivLoss`.

    .. math:: \ell = t\, (\ln t - x), \quad 0 \text{ for } t = 0; \qquad \ell = e^t (t - x) \text{ with log\_target}

    Args:
        size_average, reduce: deprecated, as in torch.
        reduction: "none", "mean" over all elements, "batchmean" (the sum divided by the first size), or "sum".
        log_target: whether target is given in logarithms.

    Shape: input, target: :math:`(*)`; output: a scalar, or :math:`(*)` with "none".

    Dtypes, errors, source: see `pylayers.functional.kl_div`.

    Equivalent to:
        >>> torch.nn.KLDivLoss(reduction=reduction, log_target=log_target)
    """

    __constants__ = ["reduction", "log_target"]

    def __init__(
        self, size_average: bool | None = None, reduce: bool | None = None, reduction: str = "mean", log_target: bool = False
    ) -> None:
        super().__init__()
        self.reduction = _named(reduction, size_average, reduce)
        self.log_target = log_target

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return functional.kl_div(input, target, reduction=self.reduction, log_target=self.log_target)

    def config(self) -> dict:
        return {"reduction": self.reduction, "log_target": self.log_target}

    def extra_repr(self) -> str:
        given = {"reduction": "mean", "log_target": False}
        return ", ".join(f"{name}={getattr(self, name)!r}" for name, usual in given.items() if getattr(self, name) != usual)
