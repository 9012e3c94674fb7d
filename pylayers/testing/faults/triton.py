"""Faults in the Triton kernels."""

from functools import partial

from ..fault import Fault

_norm = partial(Fault, "rms_norm", "triton_kernels/rms_norm.py")
_swiglu = partial(Fault, "swiglu", "triton_kernels/swiglu.py")
_linear = partial(Fault, "linear", "triton_kernels/linear.py")
_centered = partial(Fault, "centered", "triton_kernels/centered.py")
_halve = partial(Fault, "halve_until", "triton_kernels/halve_until.py")
_parts = partial(Fault, "rms_norm", "triton_kernels/parts.py")
_launch = partial(Fault, "swiglu", "triton_kernels/launch.py")
_device = partial(Fault, "swiglu", "triton_kernels/device.py")
_activation = partial(Fault, "linear", "triton_kernels/activation.py")

FAULTS = (
    # RMSNorm
    _norm(
        "(row < rows)[:, None] & (col < dim)[None, :]\n    xs = load",
        "(row < rows)[:, None] & (col >= 0)[None, :]\n    xs = load",
        "the mask of the columns is forgotten",
    ),
    _norm("1) / dim + tl.full((), eps, acc))", "1) / dim)", "eps forgotten"),
    _norm("tl.sum(squares, 0) / dim", "tl.sum(squares, 0) / (dim - 1)", "the mean of a long row divides by n − 1"),
    _norm("tl.store(rstd + row, r, mask=row < rows)", "tl.store(rstd + row, r)", "rstd is written behind the last row"),
    _norm(" + tl.full((), offset, acc)\n", "\n", "offset forgotten"),
    _norm("r * (g * w - n * mean)", "r * (g * w - n * mean * 1.01)", "a part of the gradient is 1 % too large"),
    _norm(
        "live = (row < last)[:, None] & (col < dim)[None, :]\n"
        "        g = load(grad, row[:, None] * multiple(grad_row, ALIGN)"
        " + col[None, :], live, acc)\n        r =",
        "live = (row < rows)[:, None] & (col < dim)[None, :]\n"
        "        g = load(grad, row[:, None] * multiple(grad_row, ALIGN)"
        " + col[None, :], live, acc)\n        r =",
        "rows of the next part are worked on too",
    ),
    _norm(
        "    if partial is not None:\n        tl.store(partial + part * dim + col",
        "    if partial is not None:\n        tl.store(partial + part // 2 * dim + col",
        "two parts are summed into one place",
    ),
    _norm("sums += g * n\n", "sums = g * n\n", "only the last rows of a part count"),
    _norm("products += g * load", "products = g * load", "only the last piece of a long row counts"),
    _norm(
        "mean = tl.sum(products, 0) / dim\n    for start in range(0, dim, BLOCK_DIM)",
        "mean = tl.sum(products, 0) / dim\n    for start in range(0, dim - BLOCK_DIM, BLOCK_DIM)",
        "the tail of a long row is forgotten",
    ),
    _norm(
        "launch(x, partial_wide_kernel, parts * ceil_div",
        "launch(x, partial_wide_kernel, ceil_div",
        "only one part of the weight gradient",
    ),
    # Sums over rows
    _parts("tl.minimum((part + 1) * share, rows)", "(part + 1) * share", "the last part goes beyond the last row"),
    _parts("(part < parts)[:, None]", "(part <= parts)[:, None]", "a part behind the last"),
    _parts("tl.sum(sums, 0), mask=col < dim)", "tl.sum(sums, 0))", "sums are written behind the last column"),
    _parts("share = ceil_div(rows, parts)", "share = rows // parts", "the rows that remain are forgotten"),
    # SwiGLU
    _swiglu("(1 + a * (1 - s))", "(1 - a * (1 - s))", "another derivative"),
    _swiglu("g * a * s, mask=live)", "g * s, mask=live)", "another derivative by up"),
    _swiglu("a * tl.sigmoid(a) * b", "b * tl.sigmoid(b) * a", "gate and up mixed up"),
    _swiglu(
        "load(up, row * multiple(up_row, ALIGN) + col, live, acc)\n    s =",
        "load(up, row * multiple(gate_row, ALIGN) + col, live, acc)\n    s =",
        "up is read at the stride of gate",
    ),
    _swiglu(
        "dup + row * multiple(dup_row, ALIGN) + col, g * a * s, mask=live)",
        "dup + row * multiple(dup_row, ALIGN) + col, g * a * s, mask=live & (row > 0))",
        "dup of the first row is never written",
    ),
    _swiglu("a * tl.sigmoid(a) * b, mask=live)", "a * tl.sigmoid(a) * b)", "y is written behind its end"),
    _launch("return math.gcd(16, *lengths)", "return 16", "lengths are taken for multiples of 16"),
    _launch(
        "all(matrix.is_contiguous() for matrix in matrices)",
        "matrices[0].is_contiguous()",
        "views with gaps are taken as flat",
    ),
    _device("return tl.float64 if", "return tl.float32 if", "float64 is computed in float32"),
    _device("across = tl.cdiv(dim, BLOCK_DIM)", "across = tl.cdiv(dim + 1, BLOCK_DIM)", "tiles are counted wrongly"),
    # Centering
    _centered("m = tl.sum(xs, 1) / dim", "m = tl.sum(xs, 1) / (dim + 1)", "the mean of a row divides by n + 1"),
    _centered("m = tl.sum(xs, 0) / count", "m = tl.sum(xs, 0) / (count + 1)", "the mean of a column divides by n + 1"),
    _centered("tl.minimum((part + 1) * share, dim)", "(part + 1) * share", "the last share of a row goes beyond it"),
    _centered("col[None, :], live, acc) - m), 0)", "col[None, :], live, acc)), 0)", "dweight without the mean"),
    _centered("sums += total\n", "sums = total\n", "dbias of the last mean of a share alone"),
    _centered("products += g * (load", "products = g * (load", "only the last rows of a share count"),
    _centered("ys = affine(xs, weight, None, col[None, :] % features, within, acc) - m", "ys = affine(xs - m, weight, None, col[None, :] % features, within, acc)", "dx of long rows without the weight in the mean"),
    # Halving
    _halve("size = tl.abs(load(x, col, col < last, acc))", "size = load(x, col, col < last, acc)", "the sum of the numbers, not of their sizes"),
    _halve("few = tl.sum((total > doubled", "few = tl.sum((total >= doubled", "once too often at the threshold"),
    _halve("tl.where(small < infinite, many, 0)", "0", "a sum that overflows"),
    _halve("xs * factor(k, 2, -1, acc) * factor(k, 1, -1, acc)", "xs", "more than the range of one factor"),
    # Linear
    _linear("live = step < inner - start", "live = step < inner", "the tail of inner is read from the next row"),
    _linear(
        "live[:, None] & (col < dim)[None, :]",
        "live[:, None] & (col >= 0)[None, :]",
        "rows of weight behind the last",
    ),
    _linear(
        "    if product is not None:\n        tl.store(product + offset, sums, mask=live)\n    if bias is not None:\n"
        "        sums += load(bias, col, col < dim, acc)[None, :]\n",
        "    if bias is not None:\n        sums += load(bias, col, col < dim, acc)[None, :]\n"
        "    if product is not None:\n"
        "        tl.store(product + offset, sums, mask=live)\n",
        "what is saved has the bias already",
    ),
    _linear("        x += tl.cast(x_inner, tl.int64) * BLOCK_INNER\n", "", "the same piece of x again and again"),
    _linear('input_precision="ieee"', 'input_precision="tf32"', "float32 is multiplied with 10 bits"),
    _linear(
        "activate_backward(g, z + b, ACTIVATION)",
        "activate_backward(g, z, ACTIVATION)",
        "the bias is not added again in backward",
    ),
    _linear(
        "    if derivative_from_output(activation):\n        bias = None\n",
        "",
        "the bias is added to a saved output",
    ),
    _linear("        sums += g\n", "        sums = g\n", "only the last rows of a part count"),
    # Activations
    _activation(
        "tl.where(saved <= 0, 0.0, grad)",
        "tl.where(saved < 0, 0.0, grad)",
        "the derivative of relu where its output is 0",
    ),
    _activation("(3 * CUBIC)", "CUBIC", "another derivative of gelu_tanh"),
    _activation("tl.where(x < 0, -far, far)", "far", "tanh loses its sign"),
    _activation("return tl.where(x < 0, tail, 1 - tail)", "return 1 - tail", "gelu of negative numbers"),
    _activation("tl.abs(x) < 0.4", "tl.abs(x) < 2.0", "the approximant of tanh too far from 0"),
)
