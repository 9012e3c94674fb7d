"""Faults in the Triton kernels."""

from functools import partial

from ..fault import Fault

_norm = partial(Fault, "rms_norm", "triton_kernels/norm.py")
_centred = partial(Fault, "layer_norm", "triton_kernels/norm.py")
_added = partial(Fault, "add_rms_norm", "triton_kernels/norm.py")
_gate = partial(Fault, "gate", "triton_kernels/gate.py")
_softmax = partial(Fault, "softmax", "triton_kernels/softmax.py")
_fourier = partial(Fault, "leading_fourier", "triton_kernels/leading_fourier.py")
_linear = partial(Fault, "linear", "triton_kernels/linear.py")
_bilinear = partial(Fault, "bilinear", "triton_kernels/bilinear.py")
_reduction = partial(Fault, "tensor_reduction", "triton_kernels/tensor_reduction.py")
_centered = partial(Fault, "centered", "triton_kernels/centered.py")
_halve = partial(Fault, "halve_until", "triton_kernels/halve_until.py")
_parts = partial(Fault, "rms_norm", "triton_kernels/parts.py")
_launch = partial(Fault, "gate", "triton_kernels/launch.py")
_device = partial(Fault, "gate", "triton_kernels/device.py")
_activation = partial(Fault, "linear", "triton_kernels/activation.py")
_draw = partial(Fault, "two_sided_uniform", "triton_kernels/two_sided_uniform.py")
_dropout = partial(Fault, "dropout_add", "triton_kernels/dropout_add.py")
_rotary = partial(Fault, "rotary", "triton_kernels/rotary.py")
_philox = partial(Fault, "two_sided_uniform", "triton_kernels/philox.py")

FAULTS = (
    # Norms
    _norm(
        "(row < rows)[:, None] & (col < dim)[None, :]\n    at =",
        "(row < rows)[:, None] & (col >= 0)[None, :]\n    at =",
        "the mask of the columns is forgotten",
    ),
    _norm("1) / dim + tl.full((), eps, acc))", "1) / dim)", "eps forgotten"),
    _norm(
        "(means - m), 0) / dim +",
        "(means - m), 0) / (dim - 1) +",
        "the mean of a long row divides by n − 1",
    ),
    _norm("tl.store(rstd + row, r, mask=row < rows)", "tl.store(rstd + row, r)", "rstd is written behind the last row"),
    _norm(" + tl.full((), offset, acc)\n", "\n", "offset forgotten"),
    _norm("d = g * w - n * (", "d = g * w - n * 1.01 * (", "a part of the gradient is 1 % too large"),
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
        "store_sums(dweight, dbias, by_weight, by_bias, part * dim + col, col < dim)\n\n\n@triton.jit\ndef backward_wide",
        "store_sums(dweight, dbias, by_weight, by_bias, part // 2 * dim + col, col < dim)\n\n\n@triton.jit\ndef backward_wide",
        "two parts are summed into one place",
    ),
    _norm("by_weight += g * n\n", "by_weight = g * n\n", "only the last rows of a part count"),
    _norm("products += g * (load", "products = g * (load", "only the last piece of a long row counts"),
    _norm(
        "tl.zeros((), acc)\n    for start in range(0, dim, BLOCK_DIM)",
        "tl.zeros((), acc)\n    for start in range(0, dim - BLOCK_DIM, BLOCK_DIM)",
        "the tail of a long row is forgotten",
    ),
    _norm(
        "launch(x, sums_wide_kernel, parts * ceil_div",
        "launch(x, sums_wide_kernel, ceil_div",
        "only one part of the weight gradient",
    ),
    _centred("tl.where(live, xs - m[:, None], 0.0)", "xs - m[:, None]", "what lies behind a row counts in the variance"),
    _centred("tl.where(live, xs - means, 0.0)", "xs - means", "what lies behind a long row counts in the variance"),
    _centred(
        "squares + seen * (means - m) * (means - m)",
        "squares",
        "how the means of lanes differ is left out of the variance",
    ),
    _centred("        y += load(bias, col, live, acc)", "        y += 0", "the bias is forgotten"),
    _centred("            d -= tl.sum(g * w", "            d -= 0 * tl.sum(g * w", "the mean of the gradient is left out"),
    _centred("by_bias += g\n        if dx", "by_bias = g\n        if dx", "only the last rows of a part count for the bias"),
    _centred("halves[-1] if dbias", "halves[0] if dbias", "the parts of both sums are written to one place"),
    _added("xs = sums.to(acc)", "xs = load(x, x_at, live, acc)", "what is normalised is not the sum"),
    _added("        d += load(dtotal, dtotal_at, live, acc)", "        d += 0", "the gradient of the sum is forgotten"),
    _added(
        "row[:, None] * multiple(residual_row, ALIGN) + col[None, :], at, live",
        "row[:, None] * multiple(x_row, ALIGN) + col[None, :], at, live",
        "the residual is read at the stride of x",
    ),
    # Sums over rows
    _parts("tl.minimum((part + 1) * share, rows)", "(part + 1) * share", "the last part goes beyond the last row"),
    _parts("(part < parts)[:, None]", "(part <= parts)[:, None]", "a part behind the last"),
    _parts("tl.sum(sums, 0) / size, mask=col < dim)", "tl.sum(sums, 0) / size)", "sums are written behind the last column"),
    _parts("share = ceil_div(rows, parts)", "share = rows // parts", "the rows that remain are forgotten"),
    # Gates
    _gate("activate_backward(g * b, a, ACTIVATION)", "g * b", "the derivative is forgotten"),
    _gate("g * activate(a, ACTIVATION), mask=live)", "g * a, mask=live)", "another derivative by up"),
    _gate("activate(a, ACTIVATION) * b", "activate(b, ACTIVATION) * a", "gate and up mixed up"),
    _gate(" + g * activate(a, ACTIVATION)\n", "\n", "half of the gradient of a gate that is alone"),
    _gate(
        "load(up, row * multiple(up_row, ALIGN) + col, live, acc)\n            d =",
        "load(up, row * multiple(gate_row, ALIGN) + col, live, acc)\n            d =",
        "up is read at the stride of gate",
    ),
    _gate(
        "dup + row * multiple(dup_row, ALIGN) + col, g * activate(a, ACTIVATION), mask=live)",
        "dup + row * multiple(dup_row, ALIGN) + col, g * activate(a, ACTIVATION), mask=live & (row > 0))",
        "dup of the first row is never written",
    ),
    _gate("activate(a, ACTIVATION) * b, mask=live)", "activate(a, ACTIVATION) * b)", "y is written behind its end"),
    _gate("0 if matrix is None else next(of_given)", "next(of_given, 0)", "strides of other matrices where one is left out"),
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
    Fault("centered", "triton_kernels/parts.py", "tl.sum(sums, 0) / size", "tl.sum(sums, 0)", "the sum of a long column for its mean"),
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
    _linear("z = factor * (z + b)", "z = factor * z", "the bias is not added again in backward"),
    _linear("            if not FROM_OUTPUT:\n                z =", "            if True:\n                z =", "a saved output is scaled"),
    _linear("z = factor * (z + b)", "z = z + b", "the derivative is taken where nothing is scaled"),
    _linear("        g *= factor\n", "", "the scale is forgotten in backward"),
    _linear("sums * tl.full((), scale, acc)", "sums", "the scale is forgotten"),
    _linear("        sums += g\n", "        sums = g\n", "only the last rows of a part count"),
    # LeadingFourier
    _fourier("g * (factor / 2))", "g * factor)", "coefficients count for themselves and their conjugates"),
    _fourier("| (col // 2 == last)", "", "the coefficient in the middle is halved"),
    _fourier("-1 if samples % 2 else samples // 2", "samples // 2", "an odd number of samples has nothing in the middle"),
    _fourier("(row < rows) & (col < given), acc)", "(row < rows) & (col < dim), acc)", "coefficients are read behind the last"),
    # Softmax
    _softmax("s -= shift_of(tl.max(s, 1))[:, None]", "s -= tl.max(s, 1)[:, None]", "the distance of −inf from −inf"),
    _softmax("for _ in tl.static_range(3):", "for _ in tl.static_range(1):", "a logarithm that has not converged"),
    _softmax("row % queries + dim - queries + 1", "row % queries + 1", "causal is aligned to the first key"),
    _softmax("matrix % inner * multiple(mask_inner", "matrix % inner * multiple(mask_outer", "the mask of another head"),
    _softmax("return tl.where(live, s, -INFINITY)", "return s", "columns behind the last count as 0"),
    _softmax("tl.sum(totals * tl.exp(tops - shift_of(top)), 0)", "tl.sum(totals, 0)", "sums of several maxima"),
    _softmax("total = tl.sum(totals * tl.exp(tops - shift), 0)", "total = tl.sum(totals, 0)", "sums of several maxima, in columns"),
    _softmax("causal, 0, 0.0)", 'causal, 0, float("nan"))', "nothing to attend is nan"),
    _softmax("a * ((g - dot) * tl.full((), scale, g.dtype))", "a * (g - dot)", "scale forgotten in backward"),
    _softmax("g -= tl.exp(a) * dot", "g -= a * dot", "the logarithm is not undone in backward"),
    _softmax(
        "dots += term(g, a, LOG)\n    dot = tl.sum(dots, 0)\n",
        "dots = term(g, a, LOG)\n    dot = tl.sum(dots, 0)\n",
        "only the last piece of a long row counts",
    ),
    _softmax("dots += term(g, a, LOG)\n    dot = tl.sum(dots, 0)[", "dots = term(g, a, LOG)\n    dot = tl.sum(dots, 0)[", "only the last rows of columns count"),
    _softmax("g = tl.where(col < live, g, 0.0)", "g = g", "gradients of what causal hides count"),
    _softmax(
        "mask=there & (col < dim))\n\n\n@triton.jit\ndef forward_wide",
        "mask=there)\n\n\n@triton.jit\ndef forward_wide",
        "y is written behind the row",
    ),
    _softmax("x, at + start * inner, live, acc) - shift", "x, at, live, acc) - shift", "the first rows of columns again and again"),
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
    # Dropout and sum
    _dropout("(word >> 1).to(tl.int64)", "word.to(tl.int64)", "the threshold is of 31 bits, the number of 32"),
    _dropout("x * tl.full((), scale, x.dtype))", "x)", "what is kept is not scaled"),
    _dropout("tl.interleave(tl.interleave(a, c), tl.interleave(b, d))", "tl.interleave(tl.interleave(a, b), tl.interleave(c, d))",
             "the words of a counter change places"),
    _dropout("(row[:, None] * dim + first) // 4", "(row[:, None] * 0 + first) // 4", "every row has the same mask"),
    _dropout("        key = tl.load(seed)\n", "        key = key\n", "a seed in memory does not count"),
    _dropout("0.0 if p == 1 else 1 / (1 - p)", "1 / (1.000001 - p)", "another scale"),
    _dropout("tl.store(dx + row[:, None] * dim + col[None, :], value, mask=live)",
             "tl.store(dx + row[:, None] * dim + col[None, :], value, mask=(row < rows)[:, None])", "dx is written behind its end"),
    _dropout("row[:, None] * multiple(residual_row, ALIGN)", "row[:, None] * multiple(x_row, ALIGN)", "residual is read at the stride of x"),
    # Drawn numbers
    _draw(", mask=index < count)", ")", "numbers are written behind the end"),
    _draw("(a >> 1).to(tl.int64) < zero_below", "a.to(tl.int64) < zero_below", "sign and zero depend on each other"),
    _draw("((bits >> 16) & 1) + 0x7FFF", "0x7FFF", "a tie is not rounded to even"),
    _draw("sign.to(tl.uint64) << 63", "sign.to(tl.uint64) << 62", "the sign is written into the exponent"),
    _philox("q_high ^ b ^", "q_high ^", "a word is left out of the rounds"),
    _philox("(other_key + step * 0xBB67AE85)", "other_key", "half of the key is the same in every round"),
    _philox("(seed >> 32) & 0xFFFFFFFF", "(seed >> 32) & 0", "half of the seed does not count"),
    Fault(
        "two_sided_uniform",
        "triton_kernels/launch.py",
        'constexprs["enable_fp_fusion"] = False',
        'constexprs["enable_fp_fusion"] = True',
        "product and sum are fused into one rounding",
    ),
    # Bilinear
    _bilinear("tl.store(z + place, l[:, :, None] * r[:, None, :], mask=live)", "tl.store(z + place, l[:, :, None] * r[:, None, :])", "z is written behind its end"),
    _bilinear("live, acc) * r[:, None, :]", "live, acc) + r[:, None, :]", "a sum for a product"),
    _bilinear("result += load(bias, a, a < count, acc)[None, :]", "pass", "bias forgotten"),
    _bilinear("live = wanted[:, None, :] & (a < count)[None, :, None]", "live = wanted[:, None, :] & (a >= 0)[None, :, None]", "vectors of z behind the last"),
    _bilinear("result += load(before,", "result = load(before,", "only the blocks before count"),
    _bilinear("for start in range(0, dim, BLOCK_DIM):", "for start in range(0, BLOCK_DIM, BLOCK_DIM):", "only the first piece of a vector counts"),
    # TensorReduction
    _reduction("- (i * (i - 1) - first * (first - 1)) // 2 - i)", "- (i * (i - 1)) // 2 - i)", "blocks but the first lie elsewhere"),
    _reduction("(j[None, :] >= i[:, None])", "(j[None, :] > i[:, None])", "the diagonal is left out"),
    _reduction("load(dx, place, live, acc) + tl.sum(sums, 2)", "tl.sum(sums, 2)", "the sum over the first place is lost"),
    _reduction("result += load(before,", "result = load(before,", "only the blocks before count"),
    _reduction("for start in range(first, last, BLOCK_COUNT):", "for start in range(first, first + 1, BLOCK_COUNT):", "only the first rows of a block count"),
    # Rotary
    _rotary("col, a * c - b * s, mask=mask)", "col, a * c + b * s, mask=mask)", "halves turn the other way"),
    _rotary("tl.join(a * c - b * s, b * c + a * s)", "tl.join(b * c + a * s, a * c - b * s)", "the numbers of a pair change places"),
    _rotary("        s = -s\n", "        s = s\n", "the gradient is not turned back"),
    _rotary('values, float("nan"))', "values, 1.0)", "a position out of range is taken for another"),
    _rotary("mask=(live & known)[:, None]", "mask=live[:, None]", "tables are read outside"),
    _rotary("tile * BLOCK_HEADS + tl.arange", "tl.arange", "the first heads again and again"),
    _rotary("head_tile - q_tiles, k_heads", "head_tile, k_heads", "keys are not those of the tile"),
    _rotary("(head < heads)[None, :, None]", "(head >= 0)[None, :, None]", "heads behind the last"),
    _rotary("align(half, dim, *strides, *tables)", "16", "lengths are taken for multiples of 16"),
    _rotary("positions + batch * positions_batch + token", "positions + token", "positions of the first sequence for all"),
    _rotary("for first in range(2 * half, dim, BLOCK_DIM)", "for first in range(2 * half, dim - BLOCK_DIM, BLOCK_DIM)", "the last features are never copied"),
    _rotary("token * multiple(x_token, ALIGN)", "token * multiple(y_token, ALIGN)", "x is read at the strides of y"),
    _rotary("mask = live & (col < 2 * half)", "mask = live", "interleaved features behind the rotated ones"),
)
