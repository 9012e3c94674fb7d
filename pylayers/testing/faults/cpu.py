"""Faults in the CPU kernels."""

from functools import partial

from ..fault import Fault

_norm = partial(Fault, "rms_norm", "csrc/cpu/rms_norm.cpp")
_swiglu = partial(Fault, "swiglu", "csrc/cpu/swiglu.cpp")
_linear = partial(Fault, "linear", "csrc/cpu/linear.cpp")
_fourier = partial(Fault, "leading_fourier", "csrc/cpu/leading_fourier.cpp")
_bilinear = partial(Fault, "bilinear", "csrc/cpu/bilinear.cpp")
_reduction = partial(Fault, "tensor_reduction", "csrc/cpu/tensor_reduction.cpp")
_centered = partial(Fault, "centered", "csrc/cpu/centered.cpp")
_columns = partial(Fault, "centered", "csrc/cpu/centered_columns.h")
_halve = partial(Fault, "halve_until", "csrc/cpu/halve_until.cpp")
_rows = partial(Fault, "rms_norm", "csrc/cpu/rows.h")
_vector = partial(Fault, "swiglu", "csrc/cpu/vector.h")
_math = partial(Fault, "linear", "csrc/cpu/math.h")
_draw = partial(Fault, "two_sided_uniform", "csrc/cpu/two_sided_uniform.cpp")
_philox = partial(Fault, "two_sided_uniform", "csrc/cpu/philox.h")

FAULTS = (
    # RMSNorm
    _norm(" + acc_t(eps))", ")", "eps forgotten"),
    _norm("squares / acc_t(dim)", "squares / acc_t(dim - 1)", "the mean divides by n − 1"),
    _norm("load(weight + col, count) + offset", "load(weight + col, count)", "offset forgotten"),
    _norm("return splat(acc_t(1));", "return splat(offset);", "without a weight, offset does not count"),
    _norm("if (rstd) static_cast", "if (rstd && row > 0) static_cast", "rstd of the first row is never written"),
    _norm("n * mean) * r", "n * mean * acc_t(1.01)) * r", "a part of the gradient is 1 % too large"),
    _norm(
        "load(g + col, count) * (load(from + col, count) * r), count);",
        "load(g + col, count) * load(from + col, count), count);",
        "rstd forgotten in the weight gradient",
    ),
    _norm("if (dx) write_dx(", "write_dx(", "dx is written where it was not asked for"),
    # Centering
    _centered("one.sum(0, x.dim()) / acc_t(x.dim())", "one.sum(0, x.dim()) / acc_t(x.dim() + 1)", "the mean divides by n + 1"),
    _centered("dim * (i % parts + 1) / parts);", "dim * (i % parts + 1) / parts - 1);", "a number of each part of a long row"),
    _centered("return v * load(weight + col, count);", "return v;", "the mean of the gradient without the weight"),
    _columns("if (first < last) body(first, columns * (last - first));", "", "rows that remain of folded ones"),
    _columns("sum[i % columns] += sum[i];", "sum[i % columns] = sum[i];", "folded rows count once"),
    _columns("start = (begin + col) % features", "start = col % features", "weight of other columns"),
    _columns("x, row) + begin + col, count) - load(m + col, count)", "x, row) + begin + col, count)", "dweight without the mean"),
    _columns("total[col] += sums.sum[col];", "total[col] = sums.sum[col];", "dbias of the last mean of a share alone"),
    _columns("std::min(first + run, rows)", "std::min(first + run - 1, rows)", "a part of each run is left out"),
    # Halving
    _halve("shift - limit + more", "shift - limit", "once too few"),
    _halve("return (v < 0 ? -v : v) * factor;", "return v * factor;", "the sum of the numbers, not of their sizes"),
    _halve("if (std::isfinite(scaled)) k =", "if (std::isfinite(scaled) && false) k =", "a sum that overflows"),
    _halve("-std::clamp(exponent - i * most, 0, most)", "-std::max(exponent - i * most, 0)", "a factor that underflows"),
    # Rows
    _rows("  if (col < dim) b += term(col, dim - col);\n", "", "the tail of a sum is forgotten"),
    _rows("c += term(col + 2 * lanes", "c += term(col + lanes", "a vector counts twice, another never"),
    _rows("      std::fill(sum, sum + dim, acc_t(0));\n", "", "sums do not start at 0"),
    _rows(
        "rows * part / parts, rows * (part + 1) / parts",
        "rows / parts * part, rows / parts * (part + 1)",
        "the rows that remain are forgotten",
    ),
    _rows("range(sum, rows * part / parts,", "range(sum, 0,", "rows of other parts count again"),
    _rows(
        "for (int64_t part = 0; part < parts; ++part) total",
        "for (int64_t part = 1; part < parts; ++part) total",
        "the first part is left out",
    ),
    Fault(
        "swiglu",
        "csrc/cpu/rows.h",
        "(dim + tile - 1) / tile;",
        "std::max<int64_t>(dim / tile, 1);",
        "the last tile is forgotten",
    ),
    # SwiGLU
    _swiglu("s * (1 + x * (1 - s))", "s * (1 + x * s)", "another derivative"),
    _swiglu("incoming * x * s", "incoming * s", "another derivative by up"),
    _swiglu(
        "put(to_up + col,",
        "if (row > 0 || col > 0) put(to_up + col,",
        "the first numbers of dup are never written",
    ),
    _swiglu(
        "activate<Activation::silu>(load(a + col, count)) * load(b",
        "activate<Activation::silu>(load(b + col, count)) * load(a",
        "gate and up mixed up",
    ),
    _swiglu(
        "row_of<scalar_t>(up, row) + begin;\n    scalar_t* to =",
        "row_of<scalar_t>(up, row);\n    scalar_t* to =",
        "up is read from the start of the row",
    ),
    _swiglu("is_flat(y) && (is_flat(others) && ...)", "is_flat(y)", "views with gaps are taken as flat"),
    _swiglu("to_gate + col, incoming", "const_cast<scalar_t*>(a) + col, incoming", "an input is written to"),
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
        "lanes[i] += lanes[i + width];",
        "lanes[i] += lanes[i + width / 2];",
        "lanes are left out of a sum",
    ),
    # Linear
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
    # Activations
    _math("return y > 0 ? splat", "return y >= 0 ? splat", "the derivative of relu where its output is 0"),
    _math("x < 0 ? tail : 1 - tail", "1 - tail", "gelu of negative numbers"),
    _math("s < 0.64f ? x * p : far", "s < 6.4f ? x * p : far", "the polynomial of tanh too far from 0"),
    _math("acc_t(3 * 0.0713548162726009)", "acc_t(0.0713548162726009)", "another derivative of gelu_tanh"),
    _math("exp(x * x * acc_t(-.5))", "exp(x * x * acc_t(-1))", "another derivative of gelu"),
    Fault("swiglu", "csrc/cpu/math.h", "  x = clamp(x, splat(-87.3f), splat(88.7f));\n", "", "overflow far from 0"),
    Fault(
        "swiglu",
        "csrc/cpu/math.h",
        "(r * (1.f / 6) + .5f) * s",
        "(r * (1.f / 6) + .4999f) * s",
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
    _philox("(p >> 32) ^ d ^", "(p >> 32) ^", "a word is left out of the rounds"),
    _philox("    other_key += kPhiloxStep1;\n", "", "half of the key is the same in every round"),
    _philox("static_cast<uint32_t>(seed >> 32)", "0u", "half of the seed does not count"),
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
)
