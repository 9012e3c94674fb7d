// Kernels that hold what a mean is over: a row, or a column.
#pragma once

#include "device/column_sums.cuh"
#include "device/launch.cuh"
#include "device/rows.cuh"
#include "device/tiles.cuh"

namespace pylayers::cuda {
namespace centering {

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

}  // namespace centering
}  // namespace pylayers::cuda
