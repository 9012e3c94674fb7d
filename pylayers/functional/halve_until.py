from torch import Tensor

from ..door import door

_halve_until = door("halve_until")


def halve_until(input: Tensor, threshold: float = 1.0) -> Tensor:
    r"""Halves the input until the sum of its absolute values is at most `threshold`, in one step and without a sync.

    .. math:: y = x \cdot 2^{-k}, \quad k = \min \{k \ge 0 : \textstyle\sum |x| \cdot 2^{-k} \le \text{threshold}\}

    The values are those of the loop, bit by bit, as long as they are normal numbers of the dtype: halving is exact. A result that
    is subnormal is rounded once, to the nearest, where the loop rounds in every turn. The loop adds float16 and bfloat16 up to a
    sum of that dtype, so its last turn may differ where the sum is within its rounding of the threshold.

    If an element is inf or nan, where the loop would not end or not begin, k = 0: the input is returned unchanged (as a new
    tensor). A sum of finite numbers may exceed the largest number of its dtype.

    In backward k is a constant: the gradient is grad · 2⁻ᵏ, although k jumps where the sum is a power of two times the threshold.

    Args:
        input: any shape, with any strides.
        threshold: positive and finite; rounded to the dtype of the sum, as torch rounds it in a comparison.

    Shape: input, output: :math:`(*)`. The sum of no elements is 0, and k = 0.

    Dtypes: float64, float32, float16, bfloat16; the sum is taken in float32 (float64 for float64).

    Raises:
        TypeError: input is not floating point, or threshold is not a number.
        ValueError: threshold is not positive or not finite.
        RuntimeError: the chosen backend cannot serve the device.

    Source: Zhang, Lipton, Li and Smola, Dive into Deep Learning, 2023, layers and modules.

    Equivalent to:
        >>> while input.abs().sum() > threshold:
        ...     input = input / 2
    """
    return _halve_until(input, threshold)
