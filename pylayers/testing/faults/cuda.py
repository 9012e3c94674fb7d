"""Faults in the CUDA kernels."""

from functools import partial

from ..fault import Fault

_rows = partial(Fault, "rms_norm", "csrc/cuda/device/rows.cuh")
_norm = partial(Fault, "rms_norm", "csrc/cuda/rms_norm.cu")
_centered = partial(Fault, "centered", "csrc/cuda/centered.cuh")
_centered_launch = partial(Fault, "centered", "csrc/cuda/centered.cu")
_centered_split = partial(Fault, "centered", "csrc/cuda/centered_split.cuh")
_halve = partial(Fault, "halve_until", "csrc/cuda/halve_until.cu")
_sums = partial(Fault, "linear", "csrc/cuda/device/column_sums.cuh")
_launch = partial(Fault, "swiglu", "csrc/cuda/device/launch.cuh")
_tiles = partial(Fault, "swiglu", "csrc/cuda/device/tiles.cuh")
_vector = partial(Fault, "swiglu", "csrc/cuda/device/vector.cuh")
_swiglu = partial(Fault, "swiglu", "csrc/cuda/swiglu.cu")
_fourier = partial(Fault, "leading_fourier", "csrc/cuda/leading_fourier.cu")
_linear = partial(Fault, "linear", "csrc/cuda/linear.cu")
_bilinear = partial(Fault, "bilinear", "csrc/cuda/bilinear.cu")
_reduction = partial(Fault, "tensor_reduction", "csrc/cuda/tensor_reduction.cu")
_activation = partial(Fault, "linear", "csrc/cuda/device/activation.cuh")
_draw = partial(Fault, "two_sided_uniform", "csrc/cuda/two_sided_uniform.cu")
_philox = partial(Fault, "two_sided_uniform", "csrc/cuda/device/philox.cuh")

ATOMIC_SUM = """if (threadIdx.y == 0) sums[0][threadIdx.x] = 0;
  __syncthreads();
  atomicAdd(&sums[0][threadIdx.x], own);
  __syncthreads();
  if (threadIdx.y > 0 || col >= dim) return;
  own = sums[0][threadIdx.x];"""

FAULTS = (
    # Sums along a row
    _rows("= value;\n  __syncthreads();", "= value;", "the sums of other warps are read before they are there"),
    _rows("min(lanes, 32) / 2;", "min(lanes, 32) / 4;", "half of the lanes are left out of a sum"),
    _rows("int offset = 16;", "int offset = 8;", "the upper half of the lanes gets another sum"),
    _rows("lane < warps ?", "lane <= warps ?", "one sum too many is read: another row's, or nobody's"),
    _rows("slots[turn] + threadIdx.y * warps", "slots[turn]", "the rows of a block share their slots"),
    _rows("slots[turn] +", "slots[0] +", "without turns, a slot is written while it is still read"),
    # RMSNorm, forward
    _norm("+ args.eps);\n    stay_packed(x);", ");\n    stay_packed(x);", "eps forgotten"),
    _norm(
        "+ args.eps);\n    if (args.rstd && threadIdx",
        ");\n    if (args.rstd && threadIdx",
        "eps forgotten in long rows",
    ),
    _norm("acc_t(eps), acc_t(weight ? offset : 1)", "acc_t(eps), acc_t(weight ? 0 : 1)", "offset forgotten"),
    _norm(
        "acc_t(eps), acc_t(weight ? offset : 1)",
        "acc_t(eps), acc_t(offset)",
        "without a weight, offset does not count",
    ),
    _norm(
        "acc_t(eps), acc_t(weight ? offset : 1), acc_t(1. / x.dim())",
        "acc_t(eps), acc_t(weight ? offset : 1), acc_t(1. / std::max<int64_t>(x.dim() - 1, 1))",
        "the mean divides by n − 1",
    ),
    _norm("live && lane == 0) args", "live && lane == 0 && row > 0) args", "rstd of the first row is never written"),
    _norm(
        "row < args.rows ? count : 0;  // vectors",
        "row <= args.rows ? count : 0;  // vectors",
        "a row behind the last",
    ),
    _norm(
        "load_one<width>(args.weight, index, args.weight ?",
        "load_one<width>(args.weight, lane, args.weight ?",
        "weight of other columns",
    ),
    _norm(
        "for (int v = 0; v < vectors; ++v) add_squares(sum, x[v]);",
        "for (int v = 0; v < vectors; ++v) add_squares(sum, x[v]), sum = "
        "acc_t(__half2float(__float2half(float(sum))));",
        "an accumulator in half precision",
    ),
    _norm(
        "last = (count - 1) / step * step + threadIdx.x;\n  int turn",
        "last = count / step * step - step + threadIdx.x;\n  int turn",
        "the tail of a long row is forgotten",
    ),
    _norm(
        "index + v * kChunkThreads, count,\n                  normalised",
        "index + v, count,\n                  normalised",
        "columns shifted",
    ),
    _norm("kForwardThreads, 128);", "2 * kForwardThreads, 128);", "more threads in a block than there can be"),
    # RMSNorm, backward
    _norm("a[i] * slope)", "a[i] * slope * acc_t(1.01))", "a part of the gradient is 1 % too large"),
    _norm("g[i] * (offset + w[i]) * a[i]", "g[i] * w[i] * a[i]", "offset forgotten in the mean of backward"),
    _norm(
        "acc_t(1. / x.dim())},\n                    dweight",
        "acc_t(1. / std::max<int64_t>(x.dim() - 1, 1))},\n                    dweight",
        "the mean of backward divides by n − 1",
    ),
    _norm("sums[i] += g[i]", "sums[i] = g[i]", "only the last row of a part counts"),
    _norm(
        "(args, row + blockDim.y, share.last, count)",
        "(args, row, share.last, count)",
        "the row that is loaded early is the present one",
    ),
    _norm("if (live) rstd =", "rstd =", "rstd is read behind the last row"),
    _norm(
        "rstd[r] = live ? args.rstd[row] : acc_t(0)",
        "rstd[r] = args.rstd[row]",
        "rstd is read behind the last row, in long rows",
    ),
    _norm(
        "width * sizeof(acc_of<scalar_t>)), stream, args",
        "0 * sizeof(acc_of<scalar_t>)), stream, args",
        "no shared memory is asked for",
    ),
    _norm(
        "args.partial + blockIdx.x * args.dim",
        "args.partial + blockIdx.x / 2 * args.dim",
        "two parts are summed into one place",
    ),
    # Sums over rows
    _sums(
        "    __syncthreads();\n    if (group < half)",
        "    if (group < half)",
        "sums of other rows are read before they are there",
    ),
    _sums("    }\n    __syncthreads();\n  }\n}", "    }\n  }\n}", "sums are overwritten while others still read them"),
    _sums("threads.y / 2 *", "threads.y / 4 *", "half of the shared memory that is needed"),
    _sums("part += 32) own", "part += 33) own", "parts are left out of the sum"),
    _sums("warp < 32; warp += 4", "warp < 28; warp += 4", "the parts of the last four warps are left out"),
    _sums("  if (col < dim) {\n", "  if (col <= dim) {\n", "a column behind the last"),
    _sums(
        "sums[threadIdx.y][threadIdx.x] = own;\n"
        "  __syncthreads();\n"
        "  if (threadIdx.y > 0 || col >= dim) return;\n"
        "  acc_t total[4] = {};\n"
        "#pragma unroll\n"
        "  for (int warp = 0; warp < 32; warp += 4) {\n"
        "#pragma unroll\n"
        "    for (int i = 0; i < 4; ++i) total[i] += sums[warp + i][threadIdx.x];\n"
        "  }\n"
        "  own = (total[0] + total[1]) + (total[2] + total[3]);",
        ATOMIC_SUM,
        "with float atomics the bits depend on the order of the warps",
    ),
    Fault("linear", "csrc/cuda/device/share.cuh", "(part < left)};", "(part <= left)};", "two parts take the same row"),
    # Centering
    _centered_launch("acc_t(1. / (count ? count : x.dim()))", "acc_t(1. / (count ? count + 1 : x.dim() + 1))", "the mean divides by n + 1"),
    _centered("y[i] * w[i] - mean[i] :", "(y[i] - mean[i]) * w[i] :", "dx of rows without the weight in the mean"),
    _centered("sums[i] += g[i] * (x[i] - mean[i]);", "sums[i] += g[i] * x[i];", "dweight without the mean"),
    _centered(
        "columns.set(mean_of_columns, mean);\n",
        "columns.set(weight_of_columns, mean);\n",
        "the mean is written over the weight",
    ),
    _centered(
        "      }\n    }\n    __syncthreads();\n    stay_packed(x);",
        "      }\n    }\n    stay_packed(x);",
        "the mean is read before it is there",
    ),
    _centered(
        "if (group > own.first) found[kind] = plus",
        "if (false) found[kind] = plus",
        "dbias of the last mean of a share alone",
    ),
    _centered("feature = col % args.features;", "feature = col;", "weight is read behind its end"),
    Fault("centered", "csrc/cuda/device/column_sums.cuh", "own * factor}", "own}", "the sum of a long column for its mean"),
    _centered_split("for (int64_t part = threadIdx.x; part < parts; part += kThreads)", "for (int64_t part = threadIdx.x; part < parts - 1; part += kThreads)", "a part of a row's sum"),
    # Halving
    _halve("scaled += size * down;", "scaled += size;", "a sum that overflows"),
    _halve("exponent + shift - limit + more", "exponent + shift - limit", "once too few"),
    _halve("values[i] < 0 ? -values[i] : values[i]", "values[i]", "the sum of the numbers, not of their sizes"),
    _halve("const int k = int(*exponent);", "const int k = min(int(*exponent), 126);", "more than the range of one factor"),
    # Accesses
    _launch("return int(bits & -bits);", "return 16;", "wide accesses to what is not aligned"),
    _launch(
        "    if (view.dims > 1 && view.rows() > 1) bits |= uintptr_t(view.stride[0] * bytes);\n",
        "",
        "rows at odd strides",
    ),
    _launch(
        "reinterpret_cast<uintptr_t>(view.data) | uintptr_t(view.dim()",
        "uintptr_t(view.dim()",
        "views that begin at odd addresses",
    ),
    _launch(
        "(first.stride[0] != dim || ((views.stride[0] != dim) || ...))",
        "first.stride[0] != dim",
        "views with gaps are taken as flat",
    ),
    _vector("if (index < count) vector =", "if (index <= count) vector =", "a vector behind the last is read"),
    _vector("if (index < count) reinterpret", "if (index <= count) reinterpret", "a vector behind the last is written"),
    _vector("i % 2 ? pair.y : pair.x", "i % 2 ? pair.x : pair.y", "the halves of a word are exchanged"),
    _vector(
        "const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);\n"
        "  return reinterpret_cast<const uint32_t&>(pair);",
        "return __float_as_uint(low) >> 16 | (__float_as_uint(high) & 0xffff0000u);",
        "bfloat16 is truncated, not rounded",
    ),
    _tiles(
        "own.first + threadIdx.y, own.last",
        "own.first, own.last",
        "only one of the neighbouring rows is worked on",
    ),
    _tiles(
        "int64_t(tile) * vectors * blockDim.x",
        "int64_t(tile) * blockDim.x",
        "tiles overlap, and the end of a row is not reached",
    ),
    _tiles(
        "wanted = ceil_div(count, tiles * vectors)",
        "wanted = std::max<int64_t>(count / (tiles * vectors), 1)",
        "the tail of a row is forgotten",
    ),
    # SwiGLU
    _swiglu("one_minus_sigmoid<scalar_t>(g[i], s)", "s", "another derivative"),
    _swiglu("dup[i] *= g[i] * s;", "dup[i] *= s;", "another derivative by up"),
    _swiglu("y[i] *= g[i] * sigmoid<scalar_t>(g[i])", "y[i] *= y[i] * sigmoid<scalar_t>(g[i])", "gate and up mixed up"),
    _swiglu(
        "gate.stride[0], up.stride[0]});\n  });\n}\n\n}",
        "gate.stride[0], gate.stride[0]});\n  });\n}\n\n}",
        "up is read at the stride of gate",
    ),
    _swiglu(
        "store_one(args.dup + row * args.dup_stride,",
        "if (row > 0) store_one(args.dup + row * args.dup_stride,",
        "dup of the first row is never written",
    ),
    _swiglu(
        "store_one(args.y + row * args.y_stride,",
        "store_one(const_cast<scalar_t*>(args.up) + row * args.up_stride, tile.index + v * blockDim.x, count, y);\n"
        "      store_one(args.y + row * args.y_stride,",
        "an input is written to",
    ),
    # Linear
    _linear("(s[i] + bias[i])", "(s[i])", "the bias is not added again in backward"),
    _linear("from_product = !saves_output<activation>", "from_product = true", "the bias is added to a saved output"),
    _linear("args.scale * (y[i] + b[i])", "y[i] + b[i]", "the scale is forgotten"),
    _linear("d[i] *= args.scale * derivative", "d[i] *= derivative", "the scale is forgotten in backward"),
    _linear("args.scale * (s[i] + bias[i])", "s[i] + bias[i]", "the derivative is taken where nothing is scaled"),
    _linear("(y[i] + b[i])", "(y[i])", "the bias is forgotten"),
    _linear("if (!bias) flatten(y, product);", "flatten(y, product);", "a bias per column cannot serve a flat row"),
    _linear("sums[0][i] += d[i];", "sums[0][i] += unpack(grad[r])[i];", "dbias sums the wrong gradient"),
    _linear(
        "live = row < tile.last ? count : 0;\n      grad[r]",
        "live = row < args.rows ? count : 0;\n      grad[r]",
        "rows of the next part count twice",
    ),
    _linear(
        "args.partial + tile.share * args.dim",
        "args.partial + tile.share / 2 * args.dim",
        "two parts are summed into one place",
    ),
    # LeadingFourier
    _fourier("d[0] *= is_real ? args.scale : args.scale / 2;", "d[0] *= args.scale / 2;", "coefficients without a conjugate are halved"),
    _fourier("is_real ? 0 : d[1] * (args.scale / 2)", "d[1] * args.scale", "imaginary parts count twice"),
    _fourier("samples % 2 ? -1 : samples / 2", "samples / 2", "an odd number of samples has nothing in the middle"),
    _fourier("index == 0 || index == args.last", "index == 0", "the coefficient in the middle is halved"),
    _fourier("tile.index, args.given);", "tile.index, args.dim);", "coefficients are read behind the last"),
    _fourier("index, args.dim, d);", "index, args.given, d);", "what was not asked for is never written"),
    # Activations
    _activation("saved <= 0 ? 0 : 1", "saved < 0 ? 0 : 1", "the derivative of relu where its output is 0"),
    _activation("return 1 - saved * saved", "return 1 - saved", "another derivative of tanh"),
    _activation(
        "normal<scalar_t>(saved, gate, slope), gate + saved * slope",
        "normal<scalar_t>(saved, gate, slope), gate",
        "half of gelu's derivative",
    ),
    _activation("scale * (1 + 3 * cubic * x * x)", "scale * (1 + cubic * x * x)", "another derivative of gelu_tanh"),
    _activation("-1.453152027f", "-1.45f", "a coefficient of gelu's tail in 16 bits"),
    Fault(
        "swiglu",
        "csrc/cuda/device/activation.cuh",
        "else return 1 / (1 + exp(-x));",
        "else return exp(x) / (1 + exp(x));",
        "overflow far from 0",
    ),
    # Drawn numbers
    _draw("index * width + i", "index + i", "the numbers of neighbouring threads overlap"),
    _draw(
        "__fadd_rn(low, __fmul_rn(float(words.y >> 8) * 0x1p-24f, span))",
        "low + float(words.y >> 8) * 0x1p-24f * span",
        "product and sum are fused into one rounding",
    ),
    _draw("words.x >> 1 < args", "words.x < args", "sign and zero depend on each other"),
    _draw("ceil_div(y.dim() / width, kThreads)", "y.dim() / width / kThreads + (y.dim() / width < kThreads)", "the last block is forgotten"),
    _philox("uint32_t(p >> 32) ^ words.w ^", "uint32_t(p >> 32) ^", "a word is left out of the rounds"),
    _philox("    other_key += kPhiloxStep1;\n", "", "half of the key is the same in every round"),
    _philox("uint32_t(seed >> 32)", "0", "half of the seed does not count"),
    # Bilinear
    _bilinear("__syncthreads();  // those before are read", "", "factors are written while they are still read"),
    _bilinear("factors[i] = value_at(from + i);\n  __syncthreads();", "factors[i] = value_at(from + i);", "factors are read before they are there"),
    _bilinear("z[i] *= factors[a];", "z[i] *= factors[threadIdx.y];", "the first factors again and again"),
    _bilinear("first + k < own.last ? vectors : 0);", "vectors);", "vectors of z behind the last"),
    _bilinear("sum = k == other ? sums[other] : sum;", "sum = k >= other ? sums[1] : sum;", "the second of four sums for the third"),
    _bilinear("if (args.bias) sum += value_at(args.bias + first + k);", "", "bias forgotten"),
    _bilinear("offset = blockDim.x / 2; offset", "offset = blockDim.x / 4; offset", "half of the lanes are left out of a sum"),
    _bilinear("a < count ? v[i] * factors[a] : acc_t(0);", "v[i] * factors[a];", "factors that were never loaded"),
    _bilinear("if (args.before) {", "if (args.before && row > 0) {", "the blocks before are forgotten in the first row"),
    _bilinear("if (threadIdx.y > 0 || index >= vectors) return;", "if (index >= vectors) return;", "every group stores its sums"),
    # TensorReduction
    _reduction("- (i * (i - 1) - first * (first - 1)) / 2;", "- (i * (i - 1)) / 2;", "blocks but the first lie elsewhere"),
    _reduction("if (place < start || place >= end) continue;", "if (place >= end) continue;", "the end of the row before is written"),
    _reduction("if (i <= j) sum +=", "sum +=", "places below the diagonal are read"),
    _reduction("sum += args.before[", "sum = args.before[", "only the blocks before count"),
    _reduction("args.dx[row * args.dx_stride + i] += sum;", "args.dx[row * args.dx_stride + i] = sum;", "the sum over the first place is lost"),
)
