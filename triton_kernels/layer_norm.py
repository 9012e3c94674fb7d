"""y = (x − mean) · rstd · weight + bias, rstd = 1 / √(mean((x − mean)²) + eps): a centred norm."""
from .norm import backward, forward


def layer_norm_forward(y, mean, rstd, x, weight, bias, eps):
    forward(y, None, mean, rstd, x, None, weight, bias, eps, 0.0, centred=True)


def layer_norm_backward(dx, dweight, dbias, partial, grad, x, weight, mean, rstd):
    backward(dx, None, dweight, dbias, partial, grad, None, x, weight, mean, rstd, 0.0)
