"""y = x · rstd · w, rstd = 1 / √(mean(x²) + eps), w = offset + weight: a norm that is not centred."""
from .norm import backward, forward


def rms_norm_forward(y, rstd, x, weight, eps, offset):
    forward(y, None, None, rstd, x, None, weight, None, eps, offset, centred=False)


def rms_norm_backward(dx, dweight, partial, grad, x, weight, rstd, offset):
    backward(dx, None, dweight, None, partial, grad, None, x, weight, None, rstd, offset)
