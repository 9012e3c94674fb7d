"""Faults in the CPU kernels."""

from functools import partial

from ..fault import Fault

_norm = partial(Fault, "rms_norm", "csrc/cpu/norm.h")
_centred = partial(Fault, "layer_norm", "csrc/cpu/norm.h")
_added = partial(Fault, "add_rms_norm", "csrc/cpu/norm.h")
_gate = partial(Fault, "gate", "csrc/cpu/gate.cpp")
_softmax = partial(Fault, "softmax", "csrc/cpu/softmax.cpp")
_normaliser = partial(Fault, "softmax", "csrc/cpu/softmax.h")
_softmax_columns = partial(Fault, "softmax", "csrc/cpu/softmax_columns.cpp")
_linear = partial(Fault, "linear", "csrc/cpu/linear.cpp")
_product = partial(Fault, "linear", "csrc/cpu/linear_product.cpp")
_fourier = partial(Fault, "leading_fourier", "csrc/cpu/leading_fourier.cpp")
_bilinear = partial(Fault, "bilinear", "csrc/cpu/bilinear.cpp")
_reduction = partial(Fault, "tensor_reduction", "csrc/cpu/tensor_reduction.cpp")
_centered = partial(Fault, "centered", "csrc/cpu/centered.cpp")
_columns = partial(Fault, "centered", "csrc/cpu/centered_columns.h")
_halve = partial(Fault, "halve_until", "csrc/cpu/halve_until.cpp")
_rows = partial(Fault, "rms_norm", "csrc/cpu/rows.h")
_vector = partial(Fault, "gate", "csrc/cpu/vector.h")
_math = partial(Fault, "linear", "csrc/cpu/math.h")
_draw = partial(Fault, "two_sided_uniform", "csrc/cpu/two_sided_uniform.cpp")
_dropout = partial(Fault, "dropout_add", "csrc/cpu/dropout_add.cpp")
_rotary = partial(Fault, "rotary", "csrc/cpu/rotary.cpp")
_philox = partial(Fault, "two_sided_uniform", "csrc/cpu/philox.h")

FAULTS = (
    # Norms
    _norm(" + acc_t(eps))", ")", "eps forgotten"),
    _norm("squares / acc_t(dim)", "squares / acc_t(dim - 1)", "the mean divides by n − 1"),
    _norm("load(weight + col, count) + offset", "load(weight + col, count)", "offset forgotten"),
    _norm("V{} + acc_t(1);", "V{} + offset;", "without a weight, offset does not count"),
    _norm("if (args.rstd) static_cast", "if (args.rstd && row > 0) static_cast", "rstd of the first row is never written"),
    _norm("away * slope[i])", "away * slope[i] * acc_t(1.01))", "a part of the gradient is 1 % too large"),
    _norm("g * (away * rstd[i])", "g * away", "rstd forgotten in the weight gradient"),
    _norm("if (dx[i]) store(", "store(", "dx is written where it was not asked for"),
    _norm(
        "for (; row < end; ++row) body(row, std::integral_constant<int, 1>());",
        "if (row < end) body(row, std::integral_constant<int, 1>());",
        "rows behind the last block are forgotten",
    ),
    _centred(
        "first_lanes(load(from + col, count) - mean, count)",
        "load(from + col, count) - mean",
        "what lies behind a row counts in the variance",
    ),
    _centred("if (args.mean) static_cast", "if (args.mean && row > 0) static_cast", "the first mean is never written"),
    _centred("bias ? load(bias + col, count)", "bias ? Vector<acc_t>{}", "the bias is forgotten"),
    _centred("rounded(g * w) - shift[i] -", "g * w -", "the mean of the gradient is left out"),
    _centred("rounded(g * w)", "(g * w)", "a product that is subtracted from itself leaves its rounding error"),
    _centred("by_bias += g;", "by_bias = g;", "only the last row of a part counts for the bias"),
    _centred("args.partial.rows() / 2 * dim : 0", "0 : 0", "the parts of both sums are written to one place"),
    _added("load(a + col, count) + load(b + col, count)", "load(a + col, count)", "nothing is added"),
    _added("d += load(dtotal[i] + col, count);", "d += 0;", "the gradient of the sum is forgotten"),
    _added("add_row<Norm>(row_of<row_t>(args.total, row)", "add_row<Norm>(row_of<row_t>(args.total, first)", "sums of rows go to one"),
    # Centering
    _centered("one.sum(0, x.dim()) / acc_t(x.dim())", "one.sum(0, x.dim()) / acc_t(x.dim() + 1)", "the mean divides by n + 1"),
    _centered("dim * (i % parts + 1) / parts);", "dim * (i % parts + 1) / parts - 1);", "a number of each part of a long row"),
    _centered("return v * load(weight + col, count);", "return v;", "the mean of the gradient without the weight"),
    _columns("if (first < last) body(first, columns * (last - first));", "", "rows that remain of folded ones"),
    _columns("sum[i % columns] += sum[i];", "sum[i % columns] = sum[i];", "folded rows count once"),
    _columns("start = (begin + col) % features", "start = col % features", "weight of other columns"),
    _columns("x, row) + begin + col, count) - load(m + col, count)", "x, row) + begin + col, count)", "dweight without the mean"),
    _columns("total[col] += sums.sum[col];", "total[col] = sums.sum[col];", "dbias of the last mean of a share alone"),
    # Halving
    _halve("shift - limit + more", "shift - limit", "once too few"),
    _halve("return (v < 0 ? -v : v) * factor;", "return v * factor;", "the sum of the numbers, not of their sizes"),
    _halve("if (std::isfinite(scaled)) k =", "if (std::isfinite(scaled) && false) k =", "a sum that overflows"),
    _halve("-std::clamp(exponent - i * most, 0, most)", "-std::max(exponent - i * most, 0)", "a factor that underflows"),
    # Rows
    _rows("  if (col < dim) b += term(col, dim - col);\n", "", "the tail of a sum is forgotten"),
    _rows("c += term(col + 2 * lanes", "c += term(col + lanes", "a vector counts twice, another never"),
    _rows(
        "      for (int i = 0; i < count; ++i) std::fill_n(sum + i * parts * dim, dim, acc_t(0));\n",
        "",
        "sums do not start at 0",
    ),
    _rows(
        "rows * part / parts, rows * (part + 1) / parts",
        "rows / parts * part, rows / parts * (part + 1)",
        "the rows that remain are forgotten",
    ),
    _rows("range(sum, rows * part / parts,", "range(sum, 0,", "rows of other parts count again"),
    _rows("for (int64_t part = first; part <", "for (int64_t part = first + 1; part <", "the first part is left out"),
    Fault(
        "centered",
        "csrc/cpu/rows.h",
        "std::min(first + run, count)",
        "std::min(first + run - 1, count)",
        "a part of each run is left out",
    ),
    Fault(
        "gate",
        "csrc/cpu/rows.h",
        "(dim + tile - 1) / tile;",
        "std::max<int64_t>(dim / tile, 1);",
        "the last tile is forgotten",
    ),
    # Gates
    _gate("load(b + col, count) * derivative", "load(a + col, count) * derivative", "up forgotten in the gate's gradient"),
    _gate("incoming * activate<activation>(x)", "activate<activation>(x)", "the incoming gradient is forgotten for up"),
    _gate("alone ? d + open : d", "d", "half of the gradient of a gate that is alone"),
    _gate("up ? up : gate, row) + begin;\n    scalar_t* to =", "gate, row) + begin;\n    scalar_t* to =", "up is never read"),
    _gate("Activation::gelu, Activation::gelu_tanh, Activation::silu>", "Activation::gelu, Activation::silu>", "another activation for gelu_tanh"),
    _gate("if (usual || to_up) put", "put", "dup is written where it was not asked for"),
    _gate(
        "if (usual || to_up) put(to_up",
        "if ((usual || to_up) && (row > 0 || col > 0)) put(to_up",
        "the first numbers of dup are never written",
    ),
    _gate(
        "activate<activation>(load(a + col, count)) * load(b",
        "activate<activation>(load(b + col, count)) * load(a",
        "gate and up mixed up",
    ),
    _gate(
        "row_of<scalar_t>(up ? up : gate, row) + begin;\n    scalar_t* to =",
        "row_of<scalar_t>(up ? up : gate, row);\n    scalar_t* to =",
        "up is read from the start of the row",
    ),
    _gate("((!others || is_flat(others)) && ...)", "true", "views with gaps are taken as flat"),
    _gate("put(to_gate + col,", "put(const_cast<scalar_t*>(a) + col,", "an input is written to"),
    # Vectors
    _vector("  if (col < dim) body(col, dim - col);\n", "", "the tail of a row is forgotten"),
    _vector(
        "if (col < dim) body(col, dim - col);",
        "if (col < dim) body(col, dim - col - (dim > lanes));",
        "the tail is one too short",
    ),
    _vector("((bits >> 16) & 1) + 0x7fff", "0u", "bfloat16 is truncated, not rounded"),
    _vector(
        "_mm256_cvtps_ph(bit_cast<__m256>(v), _MM_FROUND_TO_NEAREST_INT)",
        "_mm256_cvtps_ph(bit_cast<__m256>(v), _MM_FROUND_TO_ZERO)",
        "float16 is truncated, not rounded",
    ),
    Fault(
        "rms_norm",
        "csrc/cpu/vector.h",
        "Indices<acc_t>{(lane + by)",
        "Indices<acc_t>{(lane + 1)",
        "lanes are left out of a sum",
    ),
    # Linear
    _product("(part ? y : added)", "added", "only the last part of a sum is kept"),
    _product("(part ? y : added).from(row, panel * kWidth)", "(part ? y : added).from(row, 0)", "what is added to the first columns is added to all"),
    _product("exchanged<by, false>(one, other", "exchanged<by, true>(one, other", "a square is not transposed"),
    _product("place((part - first) * (right - left) + panel - left)", "place(panel - left)", "the panels of the first part for all"),
    _product("a.row == 1 ? multiply<ByColumns>", "a.row != 1 ? multiply<ByColumns>", "rows are copied as columns"),
    _product("left += wide", "left += all", "columns behind the first panels are left out"),
    _product("first += deep", "first += parts()", "parts behind the first ones are left out"),
    _product("*b.at(k, n);", "*b.at(k, 0);", "one column of b for all, behind whole squares"),
    _product("widen(one) | widen(other) << 16", "widen(one) | widen(one) << 16", "a pair is twice its first number"),
    _product("k + 1 < depth ? b.at(k + 1, 0) : nullptr", "b.at(k, 0)", "the first number of a pair of b is the second, too"),
    _product("k = depth / 2 * 2;", "k = depth;", "the last number of an odd sum is left out"),
    _product("1, b.col / 2}", "1, b.col}", "every other column of pairs is left out"),
    _product("a.from(row, start(part))", "a.from(row, part * most)", "later parts of a of pairs begin too early"),
    _linear("load(b + begin + col, count)", "load(b + col, count)", "the bias of the first columns, in long rows"),
    _linear("if (b && !derivative_from_output(activation)) x +=", "if (b) x +=", "the bias is added to a saved output"),
    _linear(
        "      if (b && !derivative_from_output(activation)) x += load(b + col, count);\n",
        "",
        "the bias is not added again in backward",
    ),
    _linear(
        "load(sum + col, count) + d, count)",
        "load(sum + col, count) + load(g + col, count), count)",
        "dbias sums the wrong gradient",
    ),
    _linear("activate<activation>(x * factor)", "activate<activation>(x)", "the scale is forgotten"),
    _linear("load(g + col, count) * factor * derivative", "load(g + col, count) * derivative", "the scale is forgotten in backward"),
    _linear(
        "      if (!derivative_from_output(activation)) x *= factor;\n", "", "the derivative is taken where nothing is scaled"
    ),
    # LeadingFourier
    _fourier("const scalar_t half = scale / 2;", "const scalar_t half = scale;", "coefficients count for themselves and their conjugates"),
    _fourier("      std::fill(to + given, to + dim, scalar_t(0));\n", "", "what was not asked for is not zero"),
    _fourier("if (ends_real) write_real(dim - 2);", "", "the coefficient in the middle is halved"),
    _fourier("samples % 2 == 0 && given == dim", "given == dim", "an odd number of samples has nothing in the middle"),
    _fourier("      write_real(0);\n", "", "coefficient 0 is halved"),
    # Softmax
    Fault("softmax", "csrc/cpu/math.h", "return x < least ? V{} : exp(x);", "return exp(x);", "what is masked counts a little"),
    _normaliser("fold<acc_t>(larger(a, b), ", "fold<acc_t>(a, ", "every other vector is left out of the maximum"),
    _normaliser("end - col, -kInfinity<acc_t>)", "end - col, acc_t(0))", "what lies behind a row takes part in its maximum"),
    _normaliser("col < live ? first_lanes(term(col, live - col), live - col)", "col < live ? term(col, live - col)", "lanes past causal"),
    _normaliser("if (total != 0) total *= std::exp(shift - top);", "", "a long row's sum keeps its old maximum"),
    _normaliser("return total == 0 ? of_nothing : 1 / total;", "return 1 / total;", "nothing to attend is nan"),
    _normaliser("if (top == -kInfinity<acc_t>) return;", "", "the distance of −inf from −inf"),
    _softmax("(score(col, count) - found.shift) - log_total", "score(col, count) - (found.shift + log_total)", "far from zero"),
    _softmax("row % queries + dim - queries + 1", "row % queries + 1", "causal is aligned to the first key"),
    _softmax("index % 2 ? rows - 1 - index / 2 : index / 2", "index / 2", "half of the rows are never written"),
    _softmax("matrix % mask.size[1] * mask.stride[1]", "matrix % mask.size[1] * mask.stride[0]", "the mask of another head"),
    _softmax("scale + load(added + col, count)", "scale + load(added + col, count) * scale", "the mask is scaled too"),
    _softmax("((load(g + col, count) - dot) * scale)", "(load(g + col, count) - dot)", "scale forgotten in backward"),
    _softmax(
        "load(g + col, count) - exp_or_zero(load(from + col, count)) * dot",
        "load(g + col, count) - load(from + col, count) * dot",
        "the logarithm is not undone in backward",
    ),
    _softmax_columns("* exp_or_zero(load(before + col, count) - shift), count);", ", count);", "the sums of columns keep their old maximum"),
    _softmax_columns("begin + run, tile.end)", "begin + run - 1, tile.end)", "the last of a run of rows is left out"),
    _softmax_columns("(row - tile.begin + r) * tile.width", "(row - tile.begin) * tile.width", "rows of columns share what is kept"),
    _softmax_columns("store(own.kept + number, power, count);", "store(own.kept + number, total, count);", "sums are kept for powers"),
    _softmax_columns("dot += log ?", "dot = log ?", "only the last row of columns counts"),
    _softmax_columns("load(own.second, count) * exp_or_zero(top - shift) +", "load(own.second, count) +", "parts of columns with several maxima"),
    _softmax_columns("load(own.first, count) + load(more.first, count)", "load(own.first, count)", "only the first part of columns counts"),
    # Activations
    _math("return y > 0 ? splat", "return y >= 0 ? splat", "the derivative of relu where its output is 0"),
    _math("x < 0 ? tail : 1 - tail", "1 - tail", "gelu of negative numbers"),
    _math("s < 0.64f ? x * p : far", "s < 6.4f ? x * p : far", "the polynomial of tanh too far from 0"),
    _math("acc_t(3 * 0.0713548162726009)", "acc_t(0.0713548162726009)", "another derivative of gelu_tanh"),
    _math("cdf + x * bell", "cdf + bell", "another derivative of gelu"),
    Fault("gate", "csrc/cpu/math.h", "  x = clamp(x, splat(-87.3f), splat(88.7f));\n", "", "overflow far from 0"),
    Fault(
        "gate",
        "csrc/cpu/math.h",
        "r * 1.666652068e-01f + 4.999999345e-01f",
        "r * 1.666652068e-01f + 4.999000000e-01f",
        "a coefficient of the exponential",
    ),
    # Drawn numbers
    _draw("draw(begin + col)", "draw(col)", "each tile has the same numbers"),
    _draw(
        "bit_cast<Numbers>(bit_cast<Bits>(splat(low)) ^ sign) + bit_cast<Numbers>(bit_cast<Bits>(product) ^ sign);",
        "bit_cast<Numbers>(bit_cast<Bits>(splat(low) + product) ^ sign);",
        "product and sum are fused into one rounding",
    ),
    _draw("w >> 1 < zero_below", "w < zero_below", "sign and zero depend on each other"),
    _draw("word(1) >> 8", "word(1) >> 9", "only the lower half of the interval"),
    _draw("odd = philox(counters(first + 1, 2)", "odd = philox(counters(first, 2)", "neighbours are equal"),
    _philox("(p >> 32) ^ d[i] ^", "(p >> 32) ^", "a word is left out of the rounds"),
    _philox("    other_key += kPhiloxStep1;\n", "", "half of the key is the same in every round"),
    _philox("static_cast<uint32_t>(seed >> 32)", "0u", "half of the seed does not count"),
    # Dropout and sum
    _dropout("first / 4 + i * kLongs", "first + i * kLongs", "counters are left out"),
    _dropout("first / 4 + i * kLongs", "first / 4", "vectors of counters are the same"),
    _dropout("i / 2 + i % 2 * (kLongs / 2)", "i", "the words of counters change places"),
    _dropout("(a & kLowWord) | b << 32, cd", "(a & kLowWord) | a << 32, cd", "neighbours share their fate"),
    _dropout("half >> 1, Vector", "half, Vector", "the threshold is of 31 bits, the float64 number of 32"),
    _dropout("(words[part] >> 1)", "(words[part])", "the threshold is of 31 bits, the number of 32"),
    _dropout("int64_t{philox_threshold(p)} - 1)", "int64_t{philox_threshold(p)})", "p = 1 drops nothing"),
    _dropout("row * dim + begin;", "begin;", "every row has the same mask"),
    _dropout("seed ? *static_cast<const int64_t*>(seed.data) : key", "key", "a seed in memory does not count"),
    _dropout("load(from + col, count) * scale", "load(from + col, count)", "what is kept is not scaled"),
    _dropout("part * lanes < count;", "part * lanes + lanes <= count;", "the last elements are never written"),
    _dropout("mask(first + start)", "mask(first)", "each batch of a tile has the same mask"),
    # Bilinear
    _bilinear("factor * load(r + col, n), n); });", "factor + load(r + col, n), n); });", "a sum for a product"),
    _bilinear("for (; a < count; ++a) some<1", "for (; a + 1 < count; ++a) some<1", "the last vectors are left out"),
    _bilinear("values[i] * factors[i]", "values[i] * factors[0]", "one factor for four vectors"),
    _bilinear("if (total && !before) std::fill(total, total + dim, acc_t(0));", "", "sums do not start at 0"),
    _bilinear("if (total && !before) std::fill", "if (total) std::fill", "the blocks before are forgotten"),
    _bilinear("sum<acc_t>(dots[i]) + own", "sum<acc_t>(dots[i])", "bias forgotten"),
    # TensorReduction
    _reduction("factor * load(from + i + col, n), n); });", "factor * load(from + col, n), n); });", "the row begins at x_0"),
    _reduction("total[i] += sum<acc_t>(dot);", "", "the second place is left out"),
    _reduction("if (!before) std::fill(total, total + dim, acc_t(0));", "", "dx does not start at 0"),
    _reduction("if (!before) std::fill", "std::fill", "the blocks before are forgotten"),
    _reduction("load(total + i + col, n) + value", "load(total + i, n) + value", "the first sums are added to the others"),
    # Rotary
    _rotary("put(out + col, a * c - b * s,", "put(out + col, a * c + b * s,", "halves turn the other way"),
    _rotary("put(out + i * lanes, a * c[i] - b * s[i],", "put(out + i * lanes, a * c[i] + b * s[i],", "whole vectors turn the other way"),
    _rotary("in += x.stride[2], out", "in += y.stride[2], out", "heads of a strided tensor are read where a contiguous one has them"),
    _rotary("s[i] = load(sin + i * lanes)", "s[i] = load(sin)", "the first vector of sines for all"),
    _rotary("sign_(inverse ? -1 : 1)", "sign_(1)", "the gradient is not turned back"),
    _rotary("bit_cast<Floats>(pairs << 32 | pairs >> 32)", "bit_cast<Floats>(pairs)", "pairs are not swapped"),
    _rotary("result[i] = v[i ^ 1];", "result[i] = v[i];", "pairs are not swapped in float64"),
    _rotary("if (bytes == 0) return;", "return;", "the other features are never written"),
    _rotary("i % 2 ? x : -x", "x", "both numbers of a pair get a sum"),
    _rotary("bit_cast<Floats>(pairs << 32 | pairs);", "bit_cast<Floats>(pairs << 32);", "the first of a pair turns by nothing"),
    _rotary("result[i] = from[i / 2];", "result[i] = from[i];", "another pair's numbers in float64"),
    _rotary("(table.data) + batch * table.stride[0] +", "(table.data) +", "tables of the first sequence for all"),
    _rotary("batch * positions_.stride[0] + token", "token", "positions of the first sequence for all"),
    _rotary("*position : token)", "token : token)", "positions do not count"),
    _rotary("% size || half % lanes) return false;", "% size) return false;", "streamed stores where they are not aligned"),
    _rotary("if (y.size[i] > 1 && y.stride[i] % lanes) return false;", "", "streamed stores to rows that are not aligned"),
    _rotary("if (k) rotation.rotate(k_out", "if (k && i > 0) rotation.rotate(k_out", "the first keys are never written"),
    _rotary("std::min(first + kTokens, tokens)};", "first + kTokens};", "tokens behind the last"),
    _rotary(
        "return y.stride[1] >= y.stride[2];", "return true;", "rows are taken in another order than they lie in",
        equivalent="the order is for the caches",
    ),
)
