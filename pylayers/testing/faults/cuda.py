"""Faults in the CUDA kernels."""

from functools import partial

from ..fault import Fault

_rows = partial(Fault, "rms_norm", "csrc/cuda/device/rows.cuh")
_centered = partial(Fault, "centered", "csrc/cuda/centered.cuh")
_centered_launch = partial(Fault, "centered", "csrc/cuda/centered.cu")
_centered_split = partial(Fault, "centered", "csrc/cuda/centered_split.cuh")
_halve = partial(Fault, "halve_until", "csrc/cuda/halve_until.cu")
_sums = partial(Fault, "linear", "csrc/cuda/device/column_sums.cuh")
_launch = partial(Fault, "gate", "csrc/cuda/device/launch.cuh")
_tiles = partial(Fault, "gate", "csrc/cuda/device/tiles.cuh")
_vector = partial(Fault, "gate", "csrc/cuda/device/vector.cuh")
_gate = partial(Fault, "gate", "csrc/cuda/gate.cu")
_fourier = partial(Fault, "leading_fourier", "csrc/cuda/leading_fourier.cu")
_linear = partial(Fault, "linear", "csrc/cuda/linear.cu")
_bilinear = partial(Fault, "bilinear", "csrc/cuda/bilinear.cu")
_reduction = partial(Fault, "tensor_reduction", "csrc/cuda/tensor_reduction.cu")
_activation = partial(Fault, "linear", "csrc/cuda/device/activation.cuh")
_draw = partial(Fault, "two_sided_uniform", "csrc/cuda/two_sided_uniform.cu")
_dropout = partial(Fault, "dropout_add", "csrc/cuda/dropout_add.cu")
_rotary = partial(Fault, "rotary", "csrc/cuda/rotary.cu")
_philox = partial(Fault, "two_sided_uniform", "csrc/cuda/device/philox.cuh")

ATOMIC_SUM = """if (threadIdx.y == 0) sums[0][threadIdx.x] = 0;
  __syncthreads();
  atomicAdd(&sums[0][threadIdx.x], own);
  __syncthreads();
  if (threadIdx.y > 0 || col >= dim) return;
  own = sums[0][threadIdx.x];"""

FAULTS = (
    # Sums along a row
    _rows(
        " = values[i];\n  }\n  __syncthreads();",
        " = values[i];\n  }",
        "the sums of other warps are read before they are there",
    ),
    _rows("min(lanes, 32) / 2;", "min(lanes, 32) / 4;", "half of the lanes are left out of a sum"),
    _rows("int offset = 16;", "int offset = 8;", "the upper half of the lanes gets another sum"),
    _rows("lane < warps ?", "lane <= warps ?", "one sum too many is read: another row's, or nobody's"),
    _rows("first = threadIdx.y * warps", "first = 0", "the rows of a block share their slots"),
    _rows(
        "slots[2][count][32];\n",
        "slots[2][count][32];\n  turn = 0;\n",
        "without turns, a slot is written while it is still read",
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
    Fault(
        "layer_norm",
        "csrc/cuda/device/column_sums.cuh",
        "partial += group * parts * dim;",
        "",
        "the second sum gets the parts of the first",
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
        "(first.stride[0] != dim || ((views && views.stride[0] != dim) || ...))",
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
    # Gates
    _gate("dup[i] * derivative<scalar_t, activation>(g[i])", "dup[i]", "the derivative is forgotten"),
    _gate("dup[i] *= activate<scalar_t, activation>(g[i]);", "dup[i] *= g[i];", "another derivative by up"),
    _gate("if (!args.up) dgate[i] += dup[i];", "", "half of the gradient of a gate that is alone"),
    _gate("auto y = args.up ? unpack(up[v]) : g;", "auto y = unpack(up[v]);", "a gate that is alone counts as 0"),
    _gate(
        "y[i] *= activate<scalar_t, activation>(g[i])",
        "y[i] = g[i] * activate<scalar_t, activation>(y[i])",
        "gate and up mixed up",
    ),
    _gate(
        "gate.stride[0],\n                                up.stride[0]});",
        "gate.stride[0],\n                                gate.stride[0]});",
        "up is read at the stride of gate",
    ),
    _gate("args.dup ? count : 0, dup", "count, dup", "dup is written where it was not asked for"),
    _gate(
        "store_one(args.dup + row * args.dup_stride,",
        "if (row > 0) store_one(args.dup + row * args.dup_stride,",
        "dup of the first row is never written",
    ),
    _gate(
        "store_one(args.y + row * args.y_stride,",
        "store_one(const_cast<scalar_t*>(args.gate) + row * args.gate_stride, tile.index + v * blockDim.x, count, y);\n"
        "      store_one(args.y + row * args.y_stride,",
        "an input is written to",
    ),
    _gate(
        "Activation{decltype(kind)::value}>,\n             plan.blocks(plan.shares(y",
        "Activation::silu>,\n             plan.blocks(plan.shares(y",
        "another activation",
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
        "gate",
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
    # Dropout and sum
    _dropout("word >> 1 < drop_below", "word < drop_below", "the threshold is of 31 bits, the number of 32"),
    _dropout("product(x, scale)", "x", "what is kept is not scaled"),
    _dropout("uint64_t(first + i) / 4", "uint64_t(first) / 4", "eight elements share a counter"),
    _dropout("word[i + 3] = four.w", "word[i + 3] = four.z", "neighbours share their fate"),
    _dropout("seed ? uint64_t(*seed) : key", "key", "a seed in memory does not count"),
    _dropout("words(row * args.dim + group * group_of<width>, key);\n#pragma unroll\n      for (int v = 0; v < vectors; ++v) {\n        const auto",
             "words(group * group_of<width>, key);\n#pragma unroll\n      for (int v = 0; v < vectors; ++v) {\n        const auto",
             "every row has the same mask"),
    _dropout("apply(dx[i], words.word[v * width + i])", "apply(dx[i], words.word[i])", "narrow vectors of a group have the same mask"),
    _dropout("args.residual + row * args.residual_stride", "args.residual + row * args.x_stride", "residual is read at the stride of x"),
    _dropout("ceil_div(dim, group_of<width>)", "dim / group_of<width>", "the last elements are never written"),
    _dropout("store_one(args.dx + row * args.dim, group * vectors + v, count, dx)",
             "store_one(args.dx + row * args.dim, group * vectors + v, count + 1, dx)", "dx is written behind its end"),
    # Rotary
    _rotary("a * c - b * s;", "a * c + b * s;", "pairs turn the other way"),
    _rotary("acc_t(inverse ? -1 : 1)", "acc_t(1)", "the gradient is not turned back"),
    _rotary("if (token >= args.tokens) return;", "", "tokens behind the last"),
    _rotary("known ? unit.sin[i] * args.sign : acc_of<scalar_t>(NAN)", "unit.sin[i] * args.sign", "a position out of range is taken for 0"),
    _rotary("(known ? row : 0) * args.cos_row", "row * args.cos_row", "cosines are read outside of their table"),
    _rotary("unit.has_high = unit.high < vectors;", "unit.has_high = true;", "a vector behind the last is copied"),
    _rotary("2 * turning + 1) / 2;", "2 * turning) / 2;", "the last vector is never copied"),
    _rotary("if (head >= heads) break;", "", "heads behind the last are written"),
    _rotary("end = head < heads ? args.head_dim / width : 0;", "end = args.head_dim / width;", "heads behind the last are read"),
    _rotary("row + half / 2 + unit * (width / 2)", "row + unit * (width / 2)", "the second pairs turn as the first"),
    _rotary("auto& own = i < width / 2 ? low : high;", "auto& own = low;", "the second pairs do not turn"),
    _rotary("2 * index : index;", "index : index;", "single numbers of other pairs"),
    _rotary("bits = uintptr_t(half * element) | ", "bits = ", "the second half is not aligned"),
    _rotary("if (table < 16) bytes =", "if (table < 0) bytes =", "rows of the tables are not aligned"),
    _rotary("if (view.size[i] > 1) bits |=", "if (view.size[i] > 1 && i == 2) bits |=", "tokens are not aligned"),
    _rotary("args.positions[batch * args.positions_batch + token]", "args.positions[token]", "positions of the first sequence for all"),
    _rotary("args.cos + batch * args.cos_batch +", "args.cos +", "tables of the first sequence for all"),
    _rotary("k + (head - args.q.count) * args.k.x_head", "k + (head - args.q.count) * args.q.x_head", "keys are read at the stride of queries"),
)
