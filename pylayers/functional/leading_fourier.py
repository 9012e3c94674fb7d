from torch import Tensor

from ..door import door

_leading_fourier = door("leading_fourier")


def leading_fourier(
    input: Tensor,
    n_coeff: int | None = None,
    dim: int = -1,
    norm: str = "backward",
    onesided: bool = False,
) -> Tensor:
    r"""The leading Fourier coefficients of real data.

    .. math:: y_k = s \sum_{m=0}^{N-1} x_m e^{-2 \pi i k m / N}, \quad k = 0, \ldots, n - 1

    Of the N complex coefficients the leading half is :math:`k = 0, \ldots, \lceil N/2 \rceil - 1`, which is the default. The real
    data are determined by :math:`k = 0, \ldots, \lfloor N/2 \rfloor`, which `onesided` returns: one more for an even N, whose
    coefficient N/2 is real, the same ones for an odd N. The coefficients behind these are conjugates:
    :math:`y_{N-k} = \overline{y_k}`.

    The backward is one real inverse transform, and saves nothing. Most or all of the coefficients are a view of the transform;
    few of them are copied out of it, so that its memory is free again.

    Args:
        input: real data with N > 0 samples along `dim`.
        n_coeff: n, the number of coefficients, from 1 to :math:`\lfloor N/2 \rfloor + 1`; the leading half if None.
        dim: the dimension that is transformed.
        norm: the factor s as in torch.fft: "backward" for 1, "ortho" for :math:`1/\sqrt{N}`, "forward" for :math:`1/N`.
        onesided: all coefficients that determine the data. Only where `n_coeff` is None.

    Shape: input :math:`(*, N, *)`, output :math:`(*, n, *)`.

    Dtypes: float64 gives complex128; float32, float16 and bfloat16 are computed in float32 and give complex64.

    Raises:
        TypeError: input is not floating point.
        ValueError: no such dimension, no samples, an n_coeff out of its range or beside onesided, or an unknown norm.
        RuntimeError: the chosen backend cannot serve the device.

    Source: Cooley and Tukey, An Algorithm for the Machine Calculation of Complex Fourier Series, 1965.

    Equivalent to:
        >>> torch.fft.rfft(input, dim=dim, norm=norm).narrow(dim, 0, (input.shape[dim] + 1) // 2)
    """
    return _leading_fourier(input, n_coeff, dim, norm, onesided)
