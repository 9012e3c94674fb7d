from torch import Tensor, nn

from .. import functional


class LeadingFourier(nn.Module):
    r"""The leading half of the Fourier coefficients of real data.

    .. math:: y_k = s \sum_{m=0}^{N-1} x_m e^{-2 \pi i k m / N}, \quad k = 0, \ldots, \lceil N/2 \rceil - 1

    Args:
        n_coeff: the number of coefficients, from 1 to :math:`\lfloor N/2 \rfloor + 1`; the leading half if None.
        dim: the dimension that is transformed.
        norm: the factor s as in torch.fft: "backward" for 1, "ortho" for :math:`1/\sqrt{N}`, "forward" for :math:`1/N`.
        onesided: all :math:`\lfloor N/2 \rfloor + 1` coefficients that determine the data. Only where `n_coeff` is None.

    Shape: input :math:`(*, N, *)`, output :math:`(*, n, *)`, complex.

    Dtypes, errors, source: see `pylayers.functional.leading_fourier`.

    Equivalent to:
        >>> torch.fft.rfft(input, dim=dim, norm=norm).narrow(dim, 0, (input.shape[dim] + 1) // 2)
    """

    __constants__ = ["n_coeff", "dim", "norm", "onesided"]

    def __init__(self, n_coeff: int | None = None, dim: int = -1, norm: str = "backward", onesided: bool = False) -> None:
        super().__init__()
        if norm not in ("backward", "ortho", "forward"):
            raise ValueError(f"LeadingFourier: norm must be 'backward', 'ortho' or 'forward', got {norm!r}")
        if n_coeff is not None and (n_coeff < 1 or onesided):
            raise ValueError(f"LeadingFourier: n_coeff must be at least 1, and None where onesided is True, got {n_coeff}")
        self.n_coeff = n_coeff
        self.dim = dim
        self.norm = norm
        self.onesided = onesided

    def forward(self, input: Tensor) -> Tensor:
        return functional.leading_fourier(input, self.n_coeff, self.dim, self.norm, self.onesided)

    def extra_repr(self) -> str:
        return f"n_coeff={self.n_coeff}, dim={self.dim}, norm={self.norm!r}, onesided={self.onesided}"
