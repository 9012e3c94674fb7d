from torch import Tensor

from ..door import door

_linear_kl_div = door("linear_kl_div")


def linear_kl_div(
    student_hidden: Tensor,
    student_weight: Tensor,
    teacher_hidden: Tensor,
    teacher_weight: Tensor,
    *,
    student_bias: Tensor | None = None,
    teacher_bias: Tensor | None = None,
    temperature: float = 1.0,
    reduction: str = "batchmean",
    chunk_rows: int | None = None,
) -> Tensor:
    r"""How far a student's distribution over classes is from its teacher's, without the logits of either: distillation.

    .. math::
        p &= \mathrm{softmax}((h_t W_t^\top + b_t) / T), \quad q = \mathrm{softmax}((h_s W_s^\top + b_s) / T) \\
        \ell &= T^2 \sum_c p_c\, (\ln p_c - \ln q_c)

    The logits of `chunk_rows` rows at a time are computed, those of the student are turned into their gradients in place and multiplied
    with weight and hidden. The gradients, which then lack only a factor, wait for the backward; that of the weight is summed in
    float32. With reduction "none" the backward computes the logits once more. :math:`T^2` keeps gradients of one size at every
    temperature.

    Args:
        student_hidden, student_weight, student_bias: the linear map that is taught; no bias if None.
        teacher_hidden, teacher_weight, teacher_bias: the one that teaches. Their widths may differ from the student's.
        temperature: :math:`T`, which softens both.
        reduction: "none" (one number a row), "batchmean" (the sum divided by the rows), "mean" (divided by rows and classes, as torch's
            KLDivLoss has it) or "sum".
        chunk_rows: rows whose logits exist at once; as many as `linear_cross_entropy` would take a third of, if None.

    Shape:
        - student_hidden: :math:`(N, H_s)`, student_weight: :math:`(C, H_s)`, student_bias: :math:`(C)`; teacher's likewise.
        - output: a scalar, or :math:`(N)` with "none".

    Dtypes: float64, float32, float16, bfloat16, the same for all, and the output likewise; logits and losses are float32 (float64 for
    float64). Under autocast all are cast, and the output is float32.

    Gradients: of the student, of which those that nobody asks for are not computed. Where a tensor of the teacher requires one, the
    call is computed by plain PyTorch.

    Raises:
        TypeError: not floating point, or two dtypes.
        ValueError: shapes that do not fit, a temperature that is not positive, an unknown reduction.
        RuntimeError: several devices, or the chosen backend cannot serve the device.

    Source: Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015.

    Equivalent to:
        >>> F = torch.nn.functional
        >>> p, q = (F.log_softmax(F.linear(*one) / T, -1) for one in ((teacher_hidden, teacher_weight), (student_hidden, student_weight)))
        >>> F.kl_div(q, p, reduction="batchmean", log_target=True) * T**2
    """
    return _linear_kl_div(
        student_hidden, student_weight, teacher_hidden, teacher_weight, student_bias, teacher_bias, temperature, reduction, chunk_rows, None
    )
