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
# ½ erfc(z) · e^{z²} / t in t = 1 / (1 + 0.3 z), z ≥ 0, highest power first. Relative error 2e-8 and 2e-16.
TAIL_32 = tl.constexpr((
    -0.0654259175, 0.2460349798, -0.26290258765, 0.28163555265, -0.0527158752, 0.1097639799, 0.07358054815, 0.0854401365,
    0.084589161))
TAIL_64 = tl.constexpr((
    -0.000588592988476343, 0.005739340459229125, -0.024147765058509317, 0.055174151307944674, -0.06644775678196183,
    0.01533472774892582, 0.08413360457109963, -0.16095291003713294, 0.1733718606742164, -0.1332026072129775,
    0.071609679116219, -0.034119489085618904, 0.01418944150295138, 0.007719210330963513, 0.022493240934212726,
    0.034991476804664044, 0.049130118596073066, 0.062291550532513715, 0.07320368982404987, 0.08082015357856145,
    0.0846284376524297, 0.0846284375306227))
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
    near = tl.abs(x) < 0.4
    ratio = tl.where(near, x * above, 2 * e) / tl.where(near, below, 1 + e)  # one division for both
    far = 1 - ratio
    return tl.where(near, ratio, tl.where(x < 0, -far, far))


@triton.constexpr_function
def length(values):
    return len(values)


@triton.jit
def polynomial(x, COEFFICIENTS: tl.constexpr):
    p = x * 0 + COEFFICIENTS[0]
    for i in tl.static_range(1, length(COEFFICIENTS)):
        p = p * x + COEFFICIENTS[i]
    return p


@triton.jit
def normal_cdf(x):
    """Φ(x) = ½ (1 + erf(x / √2)), without cancellation in the lower tail. Not tl.erf, which is a call of libdevice."""
    coefficients: tl.constexpr = TAIL_64 if x.dtype == tl.float64 else TAIL_32
    z = tl.abs(x) * SQRT_HALF
    t = 1 / (1 + 0.3 * z)
    tail = polynomial(t, coefficients) * t * tl.exp(-z * z)
    return tl.where(x < 0, tail, 1 - tail)


@triton.jit
def gelu_tanh_argument(x):
    # ½ (1 + tanh u) = σ(2u), u = √(2/π) (x + 0.044715 x³)
    return x * SQRT_8_OVER_PI * (1 + x * x * CUBIC)


@triton.jit
def activate(x, ACTIVATION: tl.constexpr):
    if ACTIVATION == RELU:
        x = tl.where(x < 0, 0.0, x)
    elif ACTIVATION == GELU:
        x = x * normal_cdf(x)
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
        grad = grad * (normal_cdf(saved) + saved * density)
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
