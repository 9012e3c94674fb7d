// y = (x − mean) · weight + bias, with the mean along each row or over `count` neighbouring rows, column by column, and its
// gradients: dx = grad · weight − mean(grad · weight), dweight = Σ grad · (x − mean), dbias = Σ grad.
//
// Held: a row (up to 16384 numbers) is in the registers of part of a warp, a warp or a block; a column (up to 1024) in those of a
// block that stands on a tile of columns at least 64 bytes wide. x is read once and y written once; backward reads grad and x
// and writes dx, once each, and in the case of columns makes the sums of the parameters on the way.
// Split: blocks sum their shares of the longer ones, a second kernel adds the shares in order, a third one subtracts the means:
// x is read twice, the second time out of the L2 cache if it fits. Backward reads grad twice and x once.
// Where the means are along rows, dweight and dbias are a kernel of their own, which reads grad and x once more.
//
// Full speed needs rows that start and end at multiples of 16 bytes; others take narrower accesses.

#include "device/column_sums.cuh"
#include "device/launch.cuh"
#include "device/rows.cuh"
#include "device/tiles.cuh"
#include "parts.h"

namespace pylayers::cuda {
namespace {

constexpr int kThreads = 256, kHeldThreads = 512, kColumnLanes = 64;

// What is subtracted from what: forward x, backward grad.
template <class scalar_t>
struct Center {
  using acc_t = acc_of<scalar_t>;
  scalar_t* y;
  acc_t* mean;
  const scalar_t *x, *weight, *bias;
  int64_t rows, dim, count, features, y_stride, x_stride;
  acc_t inverse, offset;  // of the numbers in a mean; 1 where there is no weight, which then counts as 0
};

// What the gradients of weight and bias are sums of, over shares; `other` is x.
template <class scalar_t>
struct Sums {
  using acc_t = acc_of<scalar_t>;
  acc_t* partial;
  int64_t shares;
  const scalar_t* other;
  const acc_t* mean;
  int64_t other_stride;
};

template <class V, class acc_t>
__device__ void add(acc_t& sum, const V& vector) {
  const auto x = unpack(vector);
#pragma unroll
  for (int i = 0; i < V::width; ++i) sum += x[i];
}

template <class V, class acc_t>
__device__ void add_product(acc_t& sum, const V& vector, const V& weight) {
  const auto x = unpack(vector), w = unpack(weight);
#pragma unroll
  for (int i = 0; i < V::width; ++i) sum += x[i] * w[i];
}

template <class V, class Sum>
__device__ void add_columns(Sum& sums, const V& vector) {
  const auto x = unpack(vector);
#pragma unroll
  for (int i = 0; i < V::width; ++i) sums[i] += x[i];
}

template <class V, class Sum>
__device__ void add_products(Sum& sums, const V& grad, const V& other, const Sum& mean) {
  const auto g = unpack(grad), x = unpack(other);
#pragma unroll
  for (int i = 0; i < V::width; ++i) sums[i] += g[i] * (x[i] - mean[i]);
}

// numbers at column index · width, of a row that has `count` vectors
template <int width, class acc_t>
__device__ Values<acc_t, width> load_sums(const acc_t* row, int64_t index, int64_t count) {
  Values<acc_t, width> sums = {};
  if (index >= count) return sums;
  if constexpr (width % 4 == 0) {
#pragma unroll
    for (int i = 0; i < width; i += 4) {
      const float4 four = *reinterpret_cast<const float4*>(row + index * width + i);
      sums[i] = four.x, sums[i + 1] = four.y, sums[i + 2] = four.z, sums[i + 3] = four.w;
    }
  } else {
#pragma unroll
    for (int i = 0; i < width; ++i) sums[i] = row[index * width + i];
  }
  return sums;
}

// weight + offset, where offset is 1 if there is no weight
template <bool weight_first, class V, class Means, class acc_t>
__device__ auto centered(const V& x, const Means& mean, const V& weight, const V& bias, acc_t offset) {
  const auto w = unpack(weight), b = unpack(bias);
  auto y = unpack(x);
#pragma unroll
  for (int i = 0; i < V::width; ++i)
    y[i] = weight_first ? y[i] * w[i] - mean[i] : (y[i] - mean[i]) * (offset + w[i]) + b[i];
  return y;
}

template <class acc_t, int width>
__device__ Values<acc_t, width> plus(Values<acc_t, width> a, const Values<acc_t, width>& b) {
#pragma unroll
  for (int i = 0; i < width; ++i) a[i] += b[i];
  return a;
}

template <int width, class acc_t>
__device__ Values<acc_t, width> all(acc_t value) {
  Values<acc_t, width> values;
#pragma unroll
  for (int i = 0; i < width; ++i) values[i] = value;
  return values;
}

// ---- held

template <class scalar_t, int width, int vectors, bool weight_first>
__global__ void __launch_bounds__(kHeldThreads) center_rows(const Center<scalar_t> args) {
  using acc_t = acc_of<scalar_t>;
  const int count = int(args.dim / width), lane = threadIdx.x;
  int turn = 0;
  for (int64_t first = int64_t(blockIdx.x) * blockDim.y; first < args.rows; first += int64_t(gridDim.x) * blockDim.y) {
    const int64_t row = first + threadIdx.y;
    const int live = row < args.rows ? count : 0;  // vectors that this row has
    Vector<scalar_t, width> x[vectors];
    load(x, args.x + row * args.x_stride, lane, live);
    acc_t sum = 0;
#pragma unroll
    for (int v = 0; v < vectors; ++v) {
      if constexpr (weight_first) add_product(sum, x[v], load_one<width>(args.weight, int(lane + v * blockDim.x), live));
      else add(sum, x[v]);
    }
    const acc_t mean = row_sum(sum, turn ^= 1) * args.inverse;
    stay_packed(x);
    if (args.mean && live && lane == 0) args.mean[row] = mean;
#pragma unroll
    for (int v = 0; v < vectors; ++v) {
      const int index = lane + v * blockDim.x;
      const auto weight = load_one<width>(args.weight, index, args.weight ? live : 0);
      const auto bias = load_one<width>(args.bias, index, args.bias ? live : 0);
      store_one(args.y + row * args.y_stride, index, live,
                centered<weight_first>(x[v], all<width>(mean), weight, bias, args.offset));
    }
  }
}

// For narrow accesses, of which registers hold less: a block reads the row again.
template <class scalar_t, int width, bool weight_first>
__global__ void __launch_bounds__(kHeldThreads) center_rows_twice(const Center<scalar_t> args) {
  using acc_t = acc_of<scalar_t>;
  const int count = int(args.dim / width);
  int turn = 0;
  for (int64_t row = blockIdx.x; row < args.rows; row += gridDim.x) {
    const scalar_t* const from = args.x + row * args.x_stride;
    acc_t sum = 0;
    for (int index = threadIdx.x; index < count; index += kHeldThreads) {
      const auto x = load_one<width>(from, index, count);
      if constexpr (weight_first) add_product(sum, x, load_one<width>(args.weight, index, count));
      else add(sum, x);
    }
    const acc_t mean = row_sum(sum, turn ^= 1) * args.inverse;
    if (args.mean && threadIdx.x == 0) args.mean[row] = mean;
    for (int index = threadIdx.x; index < count; index += kHeldThreads) {
      const auto x = load_one<width>(from, index, count);
      const auto weight = load_one<width>(args.weight, index, args.weight ? count : 0);
      const auto bias = load_one<width>(args.bias, index, args.bias ? count : 0);
      store_one(args.y + row * args.y_stride, index, count, centered<weight_first>(x, all<width>(mean), weight, bias, args.offset));
    }
  }
}

// By its intrinsic: of some stores of a vector the compiler makes four.
template <class scalar_t, int width>
__device__ void store_whole(scalar_t* to, const Values<acc_of<scalar_t>, width>& in) {
  const auto v = pack<scalar_t>(in);
  if constexpr (v.bytes == 16) __stcg(reinterpret_cast<uint4*>(to), make_uint4(v.word[0], v.word[1], v.word[2], v.word[3]));
  else *reinterpret_cast<Vector<scalar_t, width>*>(to) = v;
}

// What a block knows of its columns, in shared memory, so that one row of threads reads it for all.
template <class acc_t, int width>
struct Columns {
  acc_t* numbers;
  __device__ void set(int kind, const Values<acc_t, width>& values) {
#pragma unroll
    for (int i = 0; i < width; ++i) numbers[(kind * width + i) * blockDim.x + threadIdx.x] = values[i];
  }
  __device__ Values<acc_t, width> get(int kind) const {
    Values<acc_t, width> values;
#pragma unroll
    for (int i = 0; i < width; ++i) values[i] = numbers[(kind * width + i) * blockDim.x + threadIdx.x];
    return values;
  }
};
enum Kind { mean_of_columns, weight_of_columns, bias_of_columns, other_mean_of_columns = bias_of_columns, kinds_of_columns };

// A block walks its share of the means. Threads of one threadIdx.x stand on one vector of columns.
template <class scalar_t, int width, int vectors, bool backward>
__global__ void __launch_bounds__(kThreads)
    center_columns(const Center<scalar_t> args, const Sums<scalar_t> sums, unsigned tiles, unsigned shares) {
  using acc_t = acc_of<scalar_t>;
  extern __shared__ double dynamic_shared[];
  constexpr int kinds = backward ? 2 : 1;
  Columns<acc_t, width> columns{reinterpret_cast<acc_t*>(dynamic_shared) + blockDim.y / 2 * blockDim.x * kinds * width};
  const int64_t index = int64_t(blockIdx.x % tiles) * blockDim.x + threadIdx.x, share = blockIdx.x / tiles;
  const int rows = index < args.dim / width ? int(args.count) : 0;  // that this thread's columns have
  const bool leads = threadIdx.y == 0;
  const int64_t col = index * width, feature = col % args.features;
  if (leads) {
    auto weight = unpack(load_one<width>(args.weight + feature, 0, args.weight ? rows : 0));
#pragma unroll
    for (int i = 0; i < width; ++i) weight[i] += args.offset;
    columns.set(weight_of_columns, weight);
    if (!backward) columns.set(bias_of_columns, unpack(load_one<width>(args.bias + feature, 0, args.bias ? rows : 0)));
  }
  const Share own = share_of(args.rows / args.count, shares, share);
  for (int64_t group = own.first; group < own.last; ++group) {
    const int64_t first = group * args.count + threadIdx.y;
    const scalar_t* from = args.x + first * args.x_stride + col;
    scalar_t* to = args.y + first * args.y_stride + col;
    Vector<scalar_t, width> x[vectors];
    Values<acc_t, width> found[kinds] = {};
#pragma unroll
    for (int v = 0; v < vectors; ++v) {
      x[v] = load_one<width>(from, 0, int(int(threadIdx.y + v * blockDim.y) < rows));
      from += blockDim.y * args.x_stride;
    }
    if (!backward || !sums.other) {
#pragma unroll
      for (int v = 0; v < vectors; ++v) add_columns(found[0], x[v]);
    }
    if constexpr (backward) {
      if (sums.other) {  // both sums in one loop, or grad is unpacked twice, into twice the registers
        if (leads) columns.set(other_mean_of_columns, load_sums<width>(sums.mean + group * args.dim + col, 0, rows));
        __syncthreads();
        const auto mean = columns.get(other_mean_of_columns);
        const scalar_t* other_row = sums.other + first * sums.other_stride + col;
#pragma unroll
        for (int v = 0; v < vectors; ++v) {
          const auto other = load_one<width>(other_row, 0, int(int(threadIdx.y + v * blockDim.y) < rows));
          other_row += blockDim.y * sums.other_stride;
          add_columns(found[0], x[v]);
          add_products(found[1], x[v], other, mean);
        }
      }
    }
    add_groups(found);
    if (leads) {
      auto mean = found[0];
#pragma unroll
      for (int i = 0; i < width; ++i) mean[i] *= args.inverse;
      columns.set(mean_of_columns, mean);
      if (args.mean && rows) store_sums(args.mean + group * args.dim + col, mean);
#pragma unroll
      for (int kind = 0; kind < kinds; ++kind) {
        if (!sums.partial || !rows || (kind > 0 && !sums.other)) continue;
        acc_t* const total = sums.partial + (kind * sums.shares + share) * args.dim + col;
        if (group > own.first) found[kind] = plus(found[kind], load_sums<width>(total, 0, 1));
        store_sums(total, found[kind]);
      }
    }
    __syncthreads();
    stay_packed(x);
    if (!args.y) continue;
    const auto mean = columns.get(mean_of_columns), weight = columns.get(weight_of_columns);
    const auto bias = backward ? Values<acc_t, width>{} : columns.get(bias_of_columns);
#pragma unroll
    for (int v = 0; v < vectors; ++v) {
      auto y = unpack(x[v]);
#pragma unroll
      for (int i = 0; i < width; ++i) y[i] = (y[i] - mean[i]) * weight[i] + bias[i];
      if (int(threadIdx.y + v * blockDim.y) < rows) store_whole(to, y);
      to += blockDim.y * args.y_stride;
    }
  }
}

// ---- split

// Σ over a share of the rows of each column; the shares of a mean's rows follow each other. by_row: a mean belongs to a row.
template <class scalar_t, int width, bool backward, bool by_row>
__global__ void __launch_bounds__(kThreads) center_column_sums(const Center<scalar_t> args, const Sums<scalar_t> sums, unsigned tiles) {
  using acc_t = acc_of<scalar_t>;
  constexpr int rows = rows_at_once<scalar_t, width>, kinds = backward ? 2 : 1;
  const int64_t index = int64_t(blockIdx.x % tiles) * blockDim.x + threadIdx.x, share = blockIdx.x / tiles, count = args.dim / width;
  const int64_t size = by_row ? args.rows : args.count, parts = sums.shares / (args.rows / size), group = share / parts;
  const Share own = share_of(size, parts, share % parts);
  const int64_t last = group * size + own.last;
  Values<acc_t, width> found[kinds] = {}, mean = {};
  if constexpr (backward && !by_row)
    if (sums.other) mean = load_sums<width>(sums.mean + group * args.dim, index, count);
  for (int64_t start = group * size + own.first + threadIdx.y; start < last; start += rows * blockDim.y) {
    Vector<scalar_t, width> x[rows], other[rows];
#pragma unroll
    for (int r = 0; r < rows; ++r) {
      const int64_t row = start + r * blockDim.y, live = row < last ? count : 0;
      x[r] = load_one<width>(args.x + row * args.x_stride, index, live);
      if constexpr (backward) other[r] = load_one<width>(sums.other + row * sums.other_stride, index, sums.other ? live : 0);
    }
#pragma unroll
    for (int r = 0; r < rows; ++r) {
      add_columns(found[0], x[r]);
      if constexpr (backward) {
        const int64_t row = start + r * blockDim.y;
        if constexpr (by_row) mean = all<width>(sums.other && row < last ? sums.mean[row] : acc_t(0));
        add_products(found[1], x[r], other[r], mean);
      }
    }
  }
  add_groups(found);
  if (threadIdx.y > 0 || index >= count) return;
#pragma unroll
  for (int kind = 0; kind < kinds; ++kind)
    if (kind == 0 || sums.other) store_sums(sums.partial + (kind * sums.shares + share) * args.dim + index * width, found[kind]);
}

// partial[row, part] = Σ over a share of the row, of x · weight where weight is given
template <class scalar_t, int width>
__global__ void __launch_bounds__(kThreads)
    center_row_sums(const Center<scalar_t> args, acc_of<scalar_t>* partial, unsigned parts) {
  using acc_t = acc_of<scalar_t>;
  constexpr int vectors = vectors_at_once<scalar_t, width>;
  const int64_t row = blockIdx.x / parts;
  const Share own = share_of(args.dim / width, parts, blockIdx.x % parts);
  acc_t sum = 0;
  for (int64_t index = own.first + threadIdx.x; index < own.last; index += vectors * kThreads) {
    Vector<scalar_t, width> x[vectors], weight[vectors];
    load(x, args.x + row * args.x_stride, index, own.last);
    if (args.weight) load(weight, args.weight, index, own.last);
#pragma unroll
    for (int v = 0; v < vectors; ++v) {
      if (args.weight) add_product(sum, x[v], weight[v]);
      else add(sum, x[v]);
    }
  }
  sum = row_sum(sum, 0);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

template <class acc_t>
__global__ void __launch_bounds__(kThreads) center_row_means(acc_t* mean, const acc_t* partial, int64_t parts, acc_t inverse) {
  acc_t sum = 0;
  for (int64_t part = threadIdx.x; part < parts; part += kThreads) sum += partial[blockIdx.x * parts + part];
  sum = row_sum(sum, 0);
  if (threadIdx.x == 0) mean[blockIdx.x] = sum * inverse;
}

// A warp reads 32 columns, the 32 warps take every 32nd part.
template <class acc_t>
__global__ void __launch_bounds__(1024)
    center_column_means(acc_t* mean, const acc_t* partial, int64_t parts, int64_t dim, unsigned tiles, acc_t inverse) {
  __shared__ acc_t sums[32][32];
  const int64_t col = int64_t(blockIdx.x % tiles) * 32 + threadIdx.x, group = blockIdx.x / tiles;
  acc_t own = 0;
  if (col < dim) {
    for (int64_t part = threadIdx.y; part < parts; part += 32) own += partial[(group * parts + part) * dim + col];
  }
  sums[threadIdx.y][threadIdx.x] = own;
  __syncthreads();
  if (threadIdx.y > 0 || col >= dim) return;
#pragma unroll
  for (int warp = 1; warp < 32; ++warp) own += sums[warp][threadIdx.x];
  mean[group * dim + col] = own * inverse;
}

// y, with the means known. A block stays within a mean: `count` is 1 and the mean a number where it belongs to a row.
template <class scalar_t, int width, bool by_row, bool weight_first>
__global__ void __launch_bounds__(kThreads) center_subtract(const Center<scalar_t> args, unsigned tiles, unsigned shares) {
  constexpr int vectors = by_row ? vectors_at_once<scalar_t, width> : 1;
  const int64_t count = args.dim / width, group = blockIdx.x / tiles / shares;
  const int64_t index = int64_t(blockIdx.x % tiles) * vectors * blockDim.x + threadIdx.x;
  const auto mean_of_row = by_row ? args.mean[group] : 0;
  const Share own = by_row ? Share{0, 1} : share_of(args.count, shares, blockIdx.x / tiles % shares);
#pragma unroll
  for (int v = 0; v < vectors; ++v) {
    const int64_t at = index + v * blockDim.x, all_features = args.features / width, feature = by_row ? at : at % all_features;
    const auto mean = by_row ? all<width>(mean_of_row) : load_sums<width>(args.mean + group * args.dim, at, count);
    const auto weight = load_one<width>(args.weight, feature, args.weight ? all_features : 0);
    const auto bias = load_one<width>(args.bias, feature, args.bias ? all_features : 0);
    for (int64_t row = group * args.count + own.first + threadIdx.y; row < group * args.count + own.last; row += blockDim.y) {
      const auto x = load_one<width>(args.x + row * args.x_stride, at, count);
      store_one(args.y + row * args.y_stride, at, count, centered<weight_first>(x, mean, weight, bias, args.offset));
    }
  }
}

// ---- launches

constexpr auto kForward = "centered_forward", kBackward = "centered_backward";

// weight_first: dx, whose mean is that of grad · weight
template <class Access, class scalar_t, class Bool>
void along_rows(Access, const char* name, Stream stream, Center<scalar_t> args, const Output& partial, Bool weight_first) {
  constexpr int width = Access::width;
  constexpr bool first = Bool::value;
  if (!partial) {
    const std::conditional_t<Access::bytes == 16, std::integer_sequence<int, 1, 2, 4, 8>, std::integer_sequence<int, 2, 8>> options;
    const RowPlan plan = plan_rows(options, args.dim / width, args.rows <= 256, Access::bytes == 16 ? 4 : 8, kHeldThreads, 128);
    if (plan.vectors == 0)
      return launch(name, center_rows_twice<scalar_t, width, first>, std::min<int64_t>(args.rows, INT_MAX), kHeldThreads, 0, stream, args);
    return dispatch_int(options, plan.vectors, [&](auto vectors) {
      launch(name, center_rows<scalar_t, width, vectors, first>, std::min<int64_t>(ceil_div(args.rows, plan.threads.y), INT_MAX),
             plan.threads, 0, stream, args);
    });
  }
  using acc_t = acc_of<scalar_t>;
  const int64_t parts = partial.dim();
  const Center<scalar_t> summed{nullptr, nullptr, args.x, first ? args.weight : nullptr, nullptr, args.rows, args.dim, 1, args.dim,
                                0, args.x_stride, args.inverse, 0};
  launch(name, center_row_sums<scalar_t, width>, args.rows * parts, kThreads, 0, stream, summed, data<acc_t>(partial), unsigned(parts));
  launch(name, center_row_means<acc_t>, args.rows, kThreads, 0, stream, args.mean, data<const acc_t>(partial), parts, args.inverse);
  args.count = 1;
  const int64_t tiles = ceil_div(args.dim / width, kThreads * vectors_at_once<scalar_t, width>);
  launch(name, center_subtract<scalar_t, width, true, first>, args.rows * tiles, kThreads, 0, stream, args, unsigned(tiles), 1u);
}

// Threads of a block that holds columns: as wide a tile as leaves room for all rows, 64 bytes at least.
dim3 column_threads(int64_t count, int64_t columns, int vectors) {
  const int groups = power_of_two_from(ceil_div(count, vectors));
  return dim3(std::min(power_of_two_from(columns), std::max(4, kThreads / groups)), groups);
}

template <bool backward, class Access, class scalar_t>
void over_held_columns(Access, const char* name, Stream stream, const Center<scalar_t>& args, const Sums<scalar_t>& sums) {
  constexpr int width = Access::width;
  const int64_t columns = args.dim / width, groups = args.rows / args.count;
  const int64_t shares = sums.partial ? sums.shares : groups;
  const std::integer_sequence<int, 2, 16> options;
  dispatch_int(options, args.count <= 128 ? 2 : 16, [&](auto vectors) {
    const dim3 threads = column_threads(args.count, columns, vectors);
    const int64_t tiles = ceil_div(columns, threads.x);
    const size_t bytes = width * sizeof(acc_of<scalar_t>);
    launch(name, center_columns<scalar_t, width, vectors, backward>, tiles * shares, threads,
           group_bytes(threads, (1 + backward) * bytes) + kinds_of_columns * threads.x * bytes, stream, args, sums, unsigned(tiles), unsigned(shares));
  });
}

template <bool backward, bool by_row, class Access, class scalar_t>
void sum_columns(Access, const char* name, Stream stream, const Center<scalar_t>& args, const Sums<scalar_t>& sums) {
  const TilePlan plan = plan_tiles(args.dim / Access::width, 1, kColumnLanes);
  launch(name, center_column_sums<scalar_t, Access::width, backward, by_row>, plan.blocks(sums.shares), plan.threads,
         group_bytes(plan.threads, (1 + backward) * Access::width * sizeof(acc_of<scalar_t>)), stream, args, sums, unsigned(plan.tiles));
}

template <class Access, class scalar_t>
void subtract_columns(Access, const char* name, Stream stream, const Center<scalar_t>& args, const Sums<scalar_t>& sums) {
  using acc_t = acc_of<scalar_t>;
  constexpr int width = Access::width;
  const int64_t groups = args.rows / args.count, parts = sums.shares / groups, tiles = ceil_div(args.dim, 32);
  launch(name, center_column_means<acc_t>, groups * tiles, dim3(32, 32), 0, stream, args.mean, static_cast<const acc_t*>(sums.partial),
         parts, args.dim, unsigned(tiles), args.inverse);
  const TilePlan plan = plan_tiles(args.dim / width, 1, kColumnLanes);
  const int64_t shares = ceil_div(args.count, plan.threads.y * 16);  // what belongs to a column is read once for 16 rows
  launch(name, center_subtract<scalar_t, width, false, false>, groups * shares * plan.tiles, plan.threads, 0, stream, args, unsigned(plan.tiles),
         unsigned(shares));
}

template <class Access, class scalar_t>
void backward_along(Access access, Stream stream, const Center<scalar_t>& args, const Sums<scalar_t>& sums, const Output& row_partial) {
  if (args.y && args.weight) along_rows(access, kBackward, stream, args, row_partial, std::true_type());
  if (args.y && !args.weight) along_rows(access, kBackward, stream, args, row_partial, std::false_type());
  if (sums.partial) sum_columns<true, true>(access, kBackward, stream, args, sums);
}

template <class Access, class scalar_t>
void backward_over(Access access, Stream stream, const Center<scalar_t>& args, const Sums<scalar_t>& sums) {
  if (args.count <= kHeldColumn) return over_held_columns<true>(access, kBackward, stream, args, sums);
  sum_columns<true, false>(access, kBackward, stream, args, sums);
  if (args.y) subtract_columns(access, kBackward, stream, args, sums);
}

// partial of one of the two sums, by the features: the columns repeat them.
Output sum_of(const Output& partial, int kind, int64_t features) {
  Output sum = partial;
  const int64_t bytes = partial.dtype == Dtype::float64 ? 8 : 4, numbers = partial.size[1] * partial.size[2];
  sum.data = static_cast<char*>(partial.data) + kind * numbers * bytes;
  sum.dims = 2;
  sum.size[0] = numbers / features;
  sum.size[1] = sum.stride[0] = features;
  sum.stride[1] = 1;
  return sum;
}

}  // namespace

void centered_forward(Stream stream, Output y, Output mean, Output partial, Input x, Input weight, Input bias, int64_t count) {
  dispatch(x.dtype, access_bytes(y, x, weight, bias), [&](auto access) {
    using scalar_t = typename decltype(access)::scalar_t;
    using acc_t = acc_of<scalar_t>;
    const Center<scalar_t> args{data<scalar_t>(y), data<acc_t>(mean), data<const scalar_t>(x), data<const scalar_t>(weight),
                                data<const scalar_t>(bias), x.rows(), x.dim(), count,
                                weight ? weight.dim() : bias ? bias.dim() : x.dim(), y.stride[0], x.stride[0],
                                acc_t(1. / (count ? count : x.dim())), acc_t(weight ? 0 : 1)};
    if (!count) return along_rows(access, kForward, stream, args, partial, std::false_type());
    Sums<scalar_t> sums{data<acc_t>(partial), partial ? partial.rows() : 0};
    if (count <= kHeldColumn) return over_held_columns<false>(access, kForward, stream, args, Sums<scalar_t>{});
    sum_columns<false, false>(access, kForward, stream, args, sums);
    subtract_columns(access, kForward, stream, args, sums);
  });
}

void centered_backward(Stream stream, Output dx, Output dweight, Output dbias, Output partial, Output grad_mean, Output row_partial,
                       Input grad, Input x, Input weight, Input mean, int64_t count) {
  dispatch(grad.dtype, access_bytes(dx, grad, x, weight), [&](auto access) {
    using scalar_t = typename decltype(access)::scalar_t;
    using acc_t = acc_of<scalar_t>;
    const Center<scalar_t> args{data<scalar_t>(dx), data<acc_t>(grad_mean), data<const scalar_t>(grad), data<const scalar_t>(weight),
                                nullptr, grad.rows(), grad.dim(), count, weight ? weight.dim() : grad.dim(), dx.stride[0],
                                grad.stride[0], acc_t(1. / (count ? count : grad.dim())), acc_t(weight ? 0 : 1)};
    const Sums<scalar_t> sums{data<acc_t>(partial), partial ? partial.size[1] : 0, data<const scalar_t>(x), data<const acc_t>(mean),
                              x.stride[0]};
    count ? backward_over(access, stream, args, sums) : backward_along(access, stream, args, sums, row_partial);
  });
  if (dbias) add_parts(kBackward, stream, dbias, sum_of(partial, 0, dbias.dim()));
  if (dweight) add_parts(kBackward, stream, dweight, sum_of(partial, 1, dweight.dim()));
}

}  // namespace pylayers::cuda
