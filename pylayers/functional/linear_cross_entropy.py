from torch import Tensor

from ..door import door
from .sharded import sharded

_linear_cross_entropy = door("linear_cross_entropy")


def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    chunk_rows: int | None = None,
) -> Tensor:
    r"""The cross entropy of a linear map with classes, or class probabilities, without the matrix of its logits.

    .. math::
        x &= h W^\top + b, \quad z = x \text{ or } s \tanh(x / s), \quad \mathrm{lse} = \ln \sum_c e^{z_c} \\
        \ell &= \sum_c q_c w_c\, (\mathrm{lse} - z_c) + \zeta\, \mathrm{lse}^2, \quad q_c = (1 - \varepsilon)\, p_c + \varepsilon / C

    with the names of `cross_entropy`. The logits of `chunk_rows` rows at a time are computed, turned into their gradients in place, and
    multiplied with weight and input: the three products that there would be anyway. The gradients, which then lack only a factor, wait
    for the backward; that of the weight is summed in float32. With reduction "none" the backward computes the logits once more. Logits
    and losses are float32 (float64 for float64) also for 16-bit inputs. Their gradients are rounded to the dtype of input before they are
    multiplied where 16-bit products are fast: on a GPU, and for bfloat16 on a processor with AVX512_BF16, by a kernel of our own.

    Args:
        input: what the linear map is applied to.
        linear_weight: of the linear map.
        target: int64 classes, or probabilities in the dtype of input.
        linear_bias: of the linear map; none if None.
        weight: of the classes, in the dtype of input; ones if None.
        reduction: "none", "mean" or "sum".
        ignore_index: a row with this target counts for nothing; -100 if None.
        label_smoothing, z_loss, softcap: see `cross_entropy`.
        chunk_rows: rows whose logits exist at once. If None, from 512 to 2048 (on a GPU 2048 to 8192), as many as fit 64 MB (1 GB) or
            the memory of linear_weight, where its gradient will take as much. More rows read and write that gradient less often.

    Shape:
        - input: :math:`(H)` or :math:`(N, H)`. linear_weight: :math:`(C, H)` or :math:`(C, d_1, \dots, d_K, H)`, with :math:`N`.
        - linear_bias: the shape of linear_weight without :math:`H`. weight: :math:`(C)`.
        - target: :math:`()`, :math:`(N)` or :math:`(N, d_1, \dots, d_K)`, for probabilities with :math:`C` behind :math:`N`.
        - output: a scalar, or with "none" the shape of a target of classes.

    Dtypes: float64, float32, float16, bfloat16, and the output likewise. Under autocast input and weights are cast, and the output is
    float32.

    Gradients: of input, linear_weight and linear_bias, of which those that nobody asks for are not computed. Where weight or
    probabilities require a gradient, the call is computed by plain PyTorch.

    Raises:
        TypeError: input is not floating point, target neither int64 nor of its dtype, or weights of another dtype.
        ValueError: shapes that do not fit, no classes, an option out of its range, or an ignore_index with probabilities.
        IndexError: on a CPU, a target that is no class. On a GPU its row has a nan loss: nothing is waited for.
        RuntimeError: several devices, or the chosen backend cannot serve the device.

    Source: Wijmans et al., Cut Your Losses in Large-Vocabulary Language Models, 2024, and what it compares with (chunks of logits).

    Equivalent to:
        >>> logits = torch.nn.functional.linear(input, linear_weight, linear_bias)
        >>> pylayers.functional.cross_entropy(logits, target, weight, label_smoothing=label_smoothing, z_loss=z_loss, softcap=softcap)
    """
    if sharded(linear_weight, 0) and sharded(input) and linear_weight.dim() == 2 and not target.is_floating_point():
        from ..distributed import vocabulary_parallel_linear_cross_entropy

        others = dict(linear_bias=linear_bias, weight=weight, reduction=reduction, ignore_index=ignore_index)
        others.update(label_smoothing=label_smoothing, z_loss=z_loss, softcap=softcap, chunk_rows=chunk_rows)
        return vocabulary_parallel_linear_cross_entropy(input, linear_weight, target, **others)
    if ignore_index is None:
        ignore_index = -100
    elif isinstance(target, Tensor) and target.is_floating_point():
        raise ValueError("linear_cross_entropy: ignore_index names a class, and a target of probabilities has none: leave it out")
    return _linear_cross_entropy(
        input, linear_weight, target, linear_bias, weight, reduction, ignore_index, label_smoothing, z_loss, softcap, chunk_rows, None
    )
