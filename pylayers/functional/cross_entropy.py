from torch import Tensor
from torch.nn import _reduction

from ..door import door
from .sharded import sharded

_cross_entropy = door("cross_entropy")


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    *,
    z_loss: float = 0.0,
    softcap: float | None = None,
) -> Tensor:
    r"""How far logits are from the classes, or the class probabilities, that they should give.

    .. math::
        z &= x \text{ or } s \tanh(x / s), \quad \mathrm{lse} = \ln \sum_c e^{z_c} \\
        \ell &= \sum_c q_c w_c\, (\mathrm{lse} - z_c) + \zeta\, \mathrm{lse}^2, \quad q_c = (1 - \varepsilon)\, p_c + \varepsilon / C

    with :math:`p` the probabilities, 1 for the target and 0 for other classes; :math:`w` the weights, :math:`\varepsilon` the label
    smoothing, :math:`\zeta` the z-loss, :math:`s` the soft cap. The mean divides the sum of :math:`\ell` by the sum of the weights of
    the targets that count, or by the number of rows for probabilities. The logits are read once for the loss, and once with one
    write for the gradient; no other matrix of their size exists.

    Args:
        input: logits.
        target: int64 classes, or probabilities in the dtype of input.
        weight: of the classes, in the dtype of input; ones if None.
        size_average, reduce: deprecated, as in torch.
        ignore_index: a row with this target counts for nothing, and nothing of it is read.
        reduction: "none", "mean" or "sum".
        label_smoothing: the share of the probability that is spread evenly over all classes.
        z_loss: keeps the sum of exponentials near 1.
        softcap: bounds the logits smoothly by its value, as Gemma 2 does; None for none.

    Shape:
        - input: :math:`(C)`, :math:`(N, C)` or :math:`(N, C, d_1, \dots)`. Classes that are not last in memory are brought there.
        - target: the shape of input without :math:`C`, or for probabilities with it. weight: :math:`(C)`.
        - output: a scalar, or with "none" the shape of input without :math:`C`.

    Dtypes: float64, float32, float16, bfloat16, and the output likewise; computed in float32 (float64 for float64). Under autocast
    the output of 16-bit logits is float32.

    Gradients: of input by the kernels. Where weight or probabilities require a gradient, the call is computed by plain PyTorch.

    Raises:
        TypeError: input is not floating point, target neither int64 nor of its dtype, or weight of another dtype.
        ValueError: shapes that do not fit, no classes, a label_smoothing outside [0, 1], a softcap that is not positive, an unknown
            reduction, or probabilities with a nonnegative ignore_index.
        IndexError: on a CPU, a target that is no class. On a GPU its row has a nan loss and gradient: nothing is waited for.
        RuntimeError: several devices, or the chosen backend cannot serve the device.

    Source: Szegedy et al., Rethinking the Inception Architecture, 2016 (smoothing); Chowdhery et al., PaLM, 2022 (z-loss);
    Gemma Team, Gemma 2, 2024 (soft cap).

    Equivalent to:
        >>> z = input if softcap is None else softcap * torch.tanh(input / softcap)
        >>> torch.nn.functional.cross_entropy(z, target, weight, ignore_index=ignore_index, label_smoothing=label_smoothing)
        >>> # plus z_loss * torch.logsumexp(z, 1).square() for each row
    """
    if size_average is not None or reduce is not None:
        reduction = _reduction.legacy_get_string(size_average, reduce)
    if sharded(input) and sharded(input, 0 if input.dim() == 1 else 1) and not target.is_floating_point():
        from ..distributed import vocabulary_parallel_cross_entropy

        return vocabulary_parallel_cross_entropy(input, target, weight, ignore_index, reduction, label_smoothing, z_loss=z_loss, softcap=softcap)
    return _cross_entropy(input, target, weight, reduction, ignore_index, label_smoothing, z_loss, softcap, None)
