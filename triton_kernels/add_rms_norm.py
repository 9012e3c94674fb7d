"""total = x + residual, y = total · rstd · w, rstd = 1 / √(mean(total²) + eps), w = offset + weight."""
from .norm import backward, forward


def add_rms_norm_forward(y, total, rstd, x, residual, weight, eps, offset):
    forward(y, total, None, rstd, x, residual, weight, None, eps, offset, centred=False)


def add_rms_norm_backward(dx, dresidual, dweight, partial, grad, dtotal, total, weight, rstd, offset):
    backward(dx, dresidual, dweight, None, partial, grad, dtotal, total, weight, None, rstd, offset)
