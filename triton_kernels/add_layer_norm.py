"""total = x + residual, y = (total − mean) · rstd · weight + bias, rstd = 1 / √(mean((total − mean)²) + eps)."""
from .norm import backward, forward


def add_layer_norm_forward(y, total, mean, rstd, x, residual, weight, bias, eps):
    forward(y, total, mean, rstd, x, residual, weight, bias, eps, 0.0, centred=True)


def add_layer_norm_backward(dx, dresidual, dweight, dbias, partial, grad, dtotal, total, weight, mean, rstd):
    backward(dx, dresidual, dweight, dbias, partial, grad, dtotal, total, weight, mean, rstd, 0.0)
