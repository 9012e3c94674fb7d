"""The activations of linear, in float32 or float64. Numbered as in csrc/activation.h."""
import triton
import triton.language as tl

NONE = tl.constexpr(0)
RELU = tl.constexpr(1)
GELU = tl.constexpr(2)
GELU_TANH = tl.constexpr(3)
SILU = tl.constexpr(4)
TANH = tl.constexpr(5)
SIGMOID = tl.constexpr(6)

SQRT_HALF = tl.constexpr(0.7071067811865476)
PEAK = tl.constexpr(0.3989422804014327)  # of the normal density, √(1 / 2π)
SQRT_8_OVER_PI = tl.constexpr(1.5957691216057308)  # 2 · √(2 / π)
CUBIC = tl.constexpr(0.044715)


def derivative_from_output(activation):
    return activation in (RELU.value, TANH.value, SIGMOID.value)


@triton.jit
def tanh(x):
    # (1 − e) / (1 + e) cancels near 0. There the Padé approximant is exact to 1e-17.
    square = tl.minimum(x * x, 1.0)
    above = 135135 + square * (17325 + square * (378 + square))
    below = 135135 + square * (62370 + square * (3150 + square * 28))
    e = tl.exp(-2 * tl.abs(x))
    far = (1 - e) / (1 + e)
    return tl.where(tl.abs(x) < 0.4, x * above / below, tl.where(x < 0, -far, far))


@triton.jit
def gelu_tanh_argument(x):
    # ½ (1 + tanh u) = σ(2u), u = √(2/π) (x + 0.044715 x³)
    return x * SQRT_8_OVER_PI * (1 + x * x * CUBIC)


@triton.jit
def activate(x, ACTIVATION: tl.constexpr):
    if ACTIVATION == RELU:
        x = tl.where(x < 0, 0.0, x)
    elif ACTIVATION == GELU:
        x = 0.5 * x * (1 + tl.erf(x * SQRT_HALF))
    elif ACTIVATION == GELU_TANH:
        x = x * tl.sigmoid(gelu_tanh_argument(x))
    elif ACTIVATION == SILU:
        x = x * tl.sigmoid(x)
    elif ACTIVATION == TANH:
        x = tanh(x)
    elif ACTIVATION == SIGMOID:
        x = tl.sigmoid(x)
    return x


@triton.jit
def activate_backward(grad, saved, ACTIVATION: tl.constexpr):
    """grad · activation', from the output for relu, tanh and sigmoid, else from the input of the activation."""
    if ACTIVATION == RELU:
        grad = tl.where(saved <= 0, 0.0, grad)
    elif ACTIVATION == GELU:
        density = PEAK * tl.exp(-0.5 * saved * saved)
        grad = grad * (0.5 * (1 + tl.erf(saved * SQRT_HALF)) + saved * density)
    elif ACTIVATION == GELU_TANH:
        argument = gelu_tanh_argument(saved)
        gate = tl.sigmoid(argument)
        rest = tl.sigmoid(-argument)  # 1 − gate without its cancellation
        slope = (saved * saved * (3 * CUBIC) + 1) * SQRT_8_OVER_PI
        grad = grad * gate * (1 + saved * rest * slope)
    elif ACTIVATION == SILU:
        gate = tl.sigmoid(saved)
        grad = grad * gate * (1 + saved * (1 - gate))
    elif ACTIVATION == TANH:
        grad = grad * (1 - saved * saved)
    elif ACTIVATION == SIGMOID:
        grad = grad * saved * (1 - saved)
    return grad
