// Kernels for means over more than a block can hold: shares are summed, and the means subtracted.
#pragma once

#include "centered.cuh"

namespace pylayers::cuda {
namespace centering {

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

}  // namespace centering
}  // namespace pylayers::cuda
