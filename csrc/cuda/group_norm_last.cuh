// Kernels for channels that are last in memory: a block takes a tile of the channels and a share of the positions of one input.
#pragma once

#include "group_norm.cuh"

namespace pylayers::cuda {
namespace grouping {

// Blocks are counted along the channels first, then along the shares of an input.
struct Place {
  int64_t index, n, part, first, last;  // this thread's vector, and its positions

  template <class Args>
  __device__ Place(const Args& args, unsigned tiles, unsigned parts) {
    const unsigned rest = blockIdx.x / tiles;
    index = int64_t(blockIdx.x % tiles) * blockDim.x + threadIdx.x;
    n = rest / parts, part = rest % parts;
    const Share own = share_of(args.positions, parts, part);
    first = own.first + threadIdx.y, last = own.last;
  }
};

// For each of a vector's channels: what its group has.
template <int width, class scalar_t, class acc_t>
__device__ Values<acc_t, width> of_groups(const Group<scalar_t>& args, const acc_t* numbers, const Place& place) {
  Values<acc_t, width> values = {};
  if (place.index * width >= args.channels) return values;
#pragma unroll
  for (int i = 0; i < width; ++i)
    values[i] = numbers[place.n * args.groups + unsigned(place.index * width + i) / unsigned(args.each)];
  return values;
}

template <int width, class scalar_t>
__device__ auto of_channels(const scalar_t* numbers, int64_t index, int64_t count, acc_of<scalar_t> otherwise) {
  auto values = unpack(load_one<width>(numbers, index, numbers ? count : 0));
#pragma unroll
  for (int i = 0; i < width; ++i)
    if (!numbers) values[i] = otherwise;
  return values;
}

template <class acc_t, int width>
__device__ Values<acc_t, width> times(Values<acc_t, width> a, const Values<acc_t, width>& b) {
#pragma unroll
  for (int i = 0; i < width; ++i) a[i] *= b[i];
  return a;
}

// Moments of neighbouring channels.
template <class acc_t, int width>
struct ChannelMoments {
  acc_t count = 0;
  Values<acc_t, width> mean = {}, squares = {};

  __device__ void merge(acc_t more, const Values<acc_t, width>& means, const Values<acc_t, width>& others) {
    const acc_t all = count + more;
    if (all == 0) return;
    const acc_t part = more / all, kept = count * part;
#pragma unroll
    for (int i = 0; i < width; ++i) {
      const acc_t away = means[i] - mean[i];
      mean[i] += away * part;
      squares[i] += others[i] + away * away * kept;
    }
    count = all;
  }

  // Those of all threadIdx.y into those of threadIdx.y = 0, in a fixed tree.
  __device__ void merge_groups() {
    extern __shared__ double dynamic_shared[];
    const int group = threadIdx.y, lanes = blockDim.x;
    for (int half = blockDim.y / 2; half > 0; half /= 2) {
      acc_t* const own = reinterpret_cast<acc_t*>(dynamic_shared) + (group % half) * lanes + threadIdx.x;
      const int step = half * lanes;
      if (group >= half && group < 2 * half) {
        own[0] = count;
#pragma unroll
        for (int i = 0; i < width; ++i) own[(1 + i) * step] = mean[i], own[(1 + width + i) * step] = squares[i];
      }
      __syncthreads();
      if (group < half) {
        Values<acc_t, width> means, others;
#pragma unroll
        for (int i = 0; i < width; ++i) means[i] = own[(1 + i) * step], others[i] = own[(1 + width + i) * step];
        merge(own[0], means, others);
      }
      __syncthreads();
    }
  }
};

template <class scalar_t, int width>
__global__ void __launch_bounds__(kThreads) group_norm_last_moments(const Group<scalar_t> args, unsigned tiles) {
  using acc_t = acc_of<scalar_t>;
  constexpr int rows = 4;
  const int64_t count = args.channels / width;
  const Place own(args, tiles, unsigned(args.parts));
  const scalar_t* const from = args.x + own.n * args.x_stride;
  ChannelMoments<acc_t, width> found;
  for (int64_t first = own.first; first < own.last; first += rows * blockDim.y) {
    Vector<scalar_t, width> x[rows];
    const int live = int(min((own.last - first - 1) / blockDim.y + 1, int64_t(rows)));
#pragma unroll
    for (int r = 0; r < rows; ++r)
      x[r] = load_one<width>(from + (first + r * blockDim.y) * args.channels, own.index, r < live ? count : 0);
    Values<acc_t, width> mean = {}, squares = {};
#pragma unroll
    for (int r = 0; r < rows; ++r) {
      const auto a = unpack(x[r]);
#pragma unroll
      for (int i = 0; i < width; ++i) mean[i] += a[i];
    }
#pragma unroll
    for (int i = 0; i < width; ++i) mean[i] /= acc_t(live);
#pragma unroll
    for (int r = 0; r < rows; ++r) {
      if (r >= live) continue;
      const auto a = unpack(x[r]);
#pragma unroll
      for (int i = 0; i < width; ++i) squares[i] += (a[i] - mean[i]) * (a[i] - mean[i]);
    }
    found.merge(acc_t(live), mean, squares);
  }
  found.merge_groups();
  if (threadIdx.y > 0 || own.index >= count) return;
  acc_t* const to = args.partial + (own.n * args.parts + own.part) * args.channels + own.index * width;
  store_sums(to, found.mean);
  store_sums(to + args.second(), found.squares);
}

template <class scalar_t, int width>
__global__ void __launch_bounds__(kThreads) group_norm_last_apply(const Group<scalar_t> args, unsigned tiles, unsigned shares) {
  const int64_t count = args.channels / width;
  const Place own(args, tiles, shares);
  const auto mean = of_groups<width>(args, args.mean, own);
  const auto scale = times(of_groups<width>(args, args.rstd, own), of_channels<width>(args.weight, own.index, count, 1));
  const auto bias = of_channels<width>(args.bias, own.index, count, 0);
  for (int64_t position = own.first; position < own.last; position += blockDim.y) {
    auto y = unpack(load_one<width>(args.x + own.n * args.x_stride + position * args.channels, own.index, count));
#pragma unroll
    for (int i = 0; i < width; ++i) y[i] = (y[i] - mean[i]) * scale[i] + bias[i];
    activate_all<scalar_t>(args.silu, y);
    store_one(args.y + (own.n * args.positions + position) * args.channels, own.index, count, y);
  }
}

template <class scalar_t, int width>
__global__ void __launch_bounds__(kThreads) group_norm_last_sums(const Group<scalar_t> args, unsigned tiles) {
  using acc_t = acc_of<scalar_t>;
  constexpr int rows = rows_at_once<scalar_t, width>;
  const int64_t count = args.channels / width;
  const Place own(args, tiles, unsigned(args.parts));
  const auto mean = of_groups<width>(args, args.mean, own), rstd = of_groups<width>(args, args.rstd, own);
  const auto scale = times(of_channels<width>(args.weight, own.index, count, 1), rstd);
  const auto bias = of_channels<width>(args.bias, own.index, count, 0);
  Values<acc_t, width> sums[2] = {};
  for (int64_t first = own.first; first < own.last; first += rows * blockDim.y) {
    Vector<scalar_t, width> grad[rows], x[rows];
#pragma unroll
    for (int r = 0; r < rows; ++r) {
      const int64_t position = first + r * blockDim.y, live = position < own.last ? count : 0;
      grad[r] = load_one<width>(args.grad + own.n * args.grad_stride + position * args.channels, own.index, live);
      x[r] = load_one<width>(args.x + own.n * args.x_stride + position * args.channels, own.index, live);
    }
#pragma unroll
    for (int r = 0; r < rows; ++r) {
      const auto a = unpack(x[r]);
      auto dz = unpack(grad[r]);
      activate_all_backward<scalar_t>(args.silu, dz, [&](int i) { return (a[i] - mean[i]) * scale[i] + bias[i]; });
#pragma unroll
      for (int i = 0; i < width; ++i) {
        sums[0][i] += dz[i] * (a[i] - mean[i]);
        sums[1][i] += dz[i];
      }
    }
  }
  add_groups(sums);
  if (threadIdx.y > 0 || own.index >= count) return;
  acc_t* const to = args.partial + (own.n * args.parts + own.part) * args.channels + own.index * width;
  store_sums(to, times(sums[0], rstd));
  store_sums(to + args.second(), sums[1]);
}

template <class scalar_t, int width>
__global__ void __launch_bounds__(kThreads) group_norm_last_gradient(const Group<scalar_t> args, unsigned tiles, unsigned shares) {
  using acc_t = acc_of<scalar_t>;
  const int64_t count = args.channels / width;
  const Place own(args, tiles, shares);
  const auto mean = of_groups<width>(args, args.mean, own), rstd = of_groups<width>(args, args.rstd, own);
  const auto slope = times(of_groups<width>(args, args.means, own), rstd);
  const auto shift = of_groups<width>(args, args.means + args.batch * args.groups, own);
  const auto w = of_channels<width>(args.weight, own.index, count, 1), bias = of_channels<width>(args.bias, own.index, count, 0);
  for (int64_t position = own.first; position < own.last; position += blockDim.y) {
    auto d = unpack(load_one<width>(args.grad + own.n * args.grad_stride + position * args.channels, own.index, count));
    const auto a = unpack(load_one<width>(args.x + own.n * args.x_stride + position * args.channels, own.index, count));
    activate_all_backward<scalar_t>(args.silu, d, [&](int i) { return (a[i] - mean[i]) * (rstd[i] * w[i]) + bias[i]; });
#pragma unroll
    for (int i = 0; i < width; ++i) d[i] = rstd[i] * (d[i] * w[i] - shift[i] - (a[i] - mean[i]) * slope[i]);
    store_one(args.y + (own.n * args.positions + position) * args.channels, own.index, count, d);
  }
}

}  // namespace grouping
}  // namespace pylayers::cuda
