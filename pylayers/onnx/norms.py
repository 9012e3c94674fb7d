from .operators import static


def rms_norm_forward(op, input, weight, dims, eps, offset, save):
    y = _rms(op, op.widen(input), op.widen(weight), input.shape, op.acc(input), dims, eps, offset)
    return op.narrow(y, input), op.unused()


def add_rms_norm_forward(op, input, residual, weight, dims, eps, offset, dtype, save):
    total, wide = _added(op, input, residual, dtype)
    y = _rms(op, wide, op.widen(weight), input.shape, op.acc(input), dims, eps, offset)
    return op.narrow(y, input), total, op.unused()


def layer_norm_forward(op, input, weight, bias, dims, eps, save):
    y = _layer(op, op.widen(input), op.widen(weight), op.widen(bias), input.shape, op.acc(input), dims, eps)
    return op.narrow(y, input), op.unused(), op.unused()


def add_layer_norm_forward(op, input, residual, weight, bias, dims, eps, dtype, save):
    total, wide = _added(op, input, residual, dtype)
    y = _layer(op, wide, op.widen(weight), op.widen(bias), input.shape, op.acc(input), dims, eps)
    return op.narrow(y, input), total, op.unused(), op.unused()


def group_norm_forward(op, input, weight, bias, groups, eps, activation):
    x, acc, channels = op.widen(input), op.acc(input), static([input.shape[1]])
    scale, shift = op.widen(weight), op.widen(bias)
    newer = op.since(21, acc)
    if newer and channels:
        scale = op.ones(channels, acc) if scale is None else scale
        shift = op.Sub(scale, scale) if shift is None else shift
        y = newer.GroupNormalization(x, scale, shift, epsilon=eps, num_groups=groups, stash_type=1)
    else:
        y = _plain(op, op.Reshape(x, op.ints(0, groups, -1)), acc, 1, eps, centered=True)
        y = op.Reshape(y, op.Shape(x))
        by_channel = op.ints(-1, *[1] * (len(input.shape) - 2))
        y = y if scale is None else op.Mul(y, op.Reshape(scale, by_channel))
        y = y if shift is None else op.Add(y, op.Reshape(shift, by_channel))
    y = op.Mul(y, op.Sigmoid(y)) if activation else y
    return op.narrow(y, input), op.unused(), op.unused()


def _added(op, input, residual, dtype):
    """input + residual as it is stored, and as it is computed with: what was rounded away is away in both."""
    acc, dtype = op.acc(input), op.dtype(dtype)
    total = op.Add(op.widen(input), op.widen(residual))
    if dtype == acc:
        return total, total
    total = op.Cast(total, to=dtype)
    return total, op.Cast(total, to=acc)


def _rms(op, x, weight, shape, acc, dims, eps, offset):
    weight = weight if weight is None or not offset else op.Add(weight, op.number(offset, acc))
    newer, sizes = op.since(23, acc), static(shape[-dims:])
    if newer and (weight is not None or sizes):
        scale = op.ones(sizes, acc) if weight is None else weight
        return newer.RMSNormalization(x, scale, axis=-dims, epsilon=eps, stash_type=1)
    y = _plain(op, x, acc, dims, eps, centered=False)
    return y if weight is None else op.Mul(y, weight)


def _layer(op, x, weight, bias, shape, acc, dims, eps):
    own, sizes = op.since(17, acc), static(shape[-dims:])
    if own and (weight is not None or sizes):
        scale = op.ones(sizes, acc) if weight is None else weight
        return own.LayerNormalization(x, scale, bias, axis=-dims, epsilon=eps, stash_type=1)[0]
    y = _plain(op, x, acc, dims, eps, centered=True)
    y = y if weight is None else op.Mul(y, weight)
    return y if bias is None else op.Add(y, bias)


def _plain(op, x, acc, dims, eps, centered):
    axes = op.ints(*range(-dims, 0))
    x = op.Sub(x, op.ReduceMean(x, axes, keepdims=1)) if centered else x
    return op.Div(x, op.Sqrt(op.Add(op.ReduceMean(op.Mul(x, x), axes, keepdims=1), op.number(eps, acc))))
