import torch
from torch import Tensor
from torch.nn import _reduction

from .. import functional


class CrossEntropyLoss(torch.nn.Module):
    r"""The cross entropy of logits with classes or class probabilities, with the arguments of `torch.nn.CrossEntropyLoss`.

    .. math:: \ell = \sum_c q_c w_c\, (\mathrm{lse} - z_c) + \zeta\, \mathrm{lse}^2, \quad q_c = (1 - \varepsilon)\, p_c + \varepsilon / C

    Args:
        weight: of the classes: a buffer, as in torch; ones if None.
        size_average, reduce: deprecated, as in torch.
        ignore_index: a row with this target counts for nothing.
        reduction: "none", "mean" or "sum".
        label_smoothing: the share of the probability that is spread evenly over all classes.
        z_loss: :math:`\zeta`, which keeps the sum of exponentials near 1.
        softcap: bounds the logits smoothly by its value; None for none.

    Shape:
        - input: :math:`(C)`, :math:`(N, C)` or :math:`(N, C, d_1, \dots)`.
        - target: the shape of input without :math:`C`, or for probabilities with it.
        - output: a scalar, or with "none" the shape of input without :math:`C`.

    Dtypes, errors, source: see `pylayers.functional.cross_entropy`.

    Equivalent to:
        >>> torch.nn.CrossEntropyLoss(weight, ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing)
    """

    __constants__ = ["ignore_index", "reduction", "label_smoothing", "z_loss", "softcap"]

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        *,
        z_loss: float = 0.0,
        softcap: float | None = None,
    ) -> None:
        super().__init__()
        if size_average is not None or reduce is not None:
            reduction = _reduction.legacy_get_string(size_average, reduce)
        self.register_buffer("weight", weight)
        self.ignore_index = ignore_index
        self.reduction = reduction
        self.label_smoothing = label_smoothing
        self.z_loss = z_loss
        self.softcap = softcap

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(
            input,
            target,
            self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
            z_loss=self.z_loss,
            softcap=self.softcap,
        )

    def config(self) -> dict:
        """The arguments that build it again, without the deprecated ones: `pylayers.io` saves them."""
        names = ("weight", "ignore_index", "reduction", "label_smoothing", "z_loss", "softcap")
        return {name: getattr(self, name) for name in names}

    def extra_repr(self) -> str:
        given = {"ignore_index": -100, "reduction": "mean", "label_smoothing": 0.0, "z_loss": 0.0, "softcap": None}
        return ", ".join(f"{name}={getattr(self, name)!r}" for name, usual in given.items() if getattr(self, name) != usual)
