// What both memory formats share, and the kernels for channels that come first: those that hold a group, and those in which the
// threads of a row stand along the positions of one channel.
#pragma once

#include "device/activation.cuh"
#include "device/column_sums.cuh"
#include "device/norm.cuh"
#include "device/tiles.cuh"

namespace pylayers::cuda {
namespace grouping {

constexpr int kThreads = 256, kHeldThreads = 512;

template <class scalar>
struct Group {
  using scalar_t = scalar;
  using acc_t = acc_of<scalar_t>;
  scalar_t* y;                            // or dx
  acc_t *mean, *rstd, *partial, *means;   // one for each group; partial: for each share of each channel
  const scalar_t *grad, *x, *weight, *bias;
  int64_t batch, channels, positions, groups, each, grad_stride, x_stride, parts;  // each: channels of a group
  acc_t eps, inverse;                     // of the numbers in a group
  bool silu, points;                      // points: a channel has one position, so that weight and bias are vectors beside a group

  __device__ int64_t second() const { return batch * parts * channels; }  // from the first sums in partial to the second ones
};

template <class scalar_t, class acc_t>
__device__ acc_t number(const scalar_t* vector, int64_t index, acc_t otherwise) {
  return vector ? unpack(load_one<1>(vector, index, index + 1))[0] : otherwise;
}

// Whether there is an activation is asked once for a vector, not known to the compiler: it would make every kernel twice.
template <class scalar_t, class acc_t, int width>
__device__ void activate_all(bool silu, Values<acc_t, width>& z) {
  if (!silu) return;
#pragma unroll
  for (int i = 0; i < width; ++i) z[i] = activate<scalar_t, Activation::silu>(z[i]);
}

// The gradients by z(i), from those by its activation.
template <class scalar_t, class acc_t, int width, class Before>
__device__ void activate_all_backward(bool silu, Values<acc_t, width>& grad, const Before& z) {
  if (!silu) return;
#pragma unroll
  for (int i = 0; i < width; ++i) grad[i] *= derivative<scalar_t, Activation::silu>(z(i));
}

// Of the moments that the threads of a row have found: the mean, and Σ (x − mean)² in place of own.squares.
template <class acc_t>
__device__ acc_t mean_of_row(Moments<acc_t>& own, acc_t inverse, int& turn) {
  const acc_t mean = row_sum(own.mean * own.count, turn ^= 1) * inverse;
  own.squares = row_sum(own.squares + own.count * (own.mean - mean) * (own.mean - mean), turn ^= 1);
  return mean;
}

template <class acc_t>
__device__ void merge(Moments<acc_t>& own, acc_t more, acc_t mean, acc_t squares) {
  const acc_t all = own.count + more;
  if (all == 0) return;
  const acc_t away = mean - own.mean, part = more / all;
  own.mean += away * part;
  own.squares += squares + away * away * own.count * part;
  own.count = all;
}

// A group: its first channel, how many vectors it has, and how many of them a channel has.
struct Held {
  int64_t row, channel;
  int live;
  unsigned per_channel;
};

// Vector `index` of y.
template <class scalar_t, int width, class acc_t>
__device__ void finish(const Group<scalar_t>& args, const Vector<scalar_t, width>& x, int index, const Held& of, acc_t mean, acc_t rstd) {
  if (index >= of.live) return;
  auto y = unpack(x);
  if (args.points) {
    const auto w = unpack(load_one<width>(args.weight + of.channel, index, args.weight ? of.live : 0));
    const auto b = unpack(load_one<width>(args.bias + of.channel, index, args.bias ? of.live : 0));
#pragma unroll
    for (int i = 0; i < width; ++i) y[i] = (y[i] - mean) * (args.weight ? rstd * w[i] : rstd) + b[i];
  } else {
    const int64_t own = of.channel + unsigned(index) / of.per_channel;
    const acc_t scale = rstd * number(args.weight, own, acc_t(1)), bias = number(args.bias, own, acc_t(0));
#pragma unroll
    for (int i = 0; i < width; ++i) y[i] = (y[i] - mean) * scale + bias;
  }
  activate_all<scalar_t>(args.silu, y);
  store_one(args.y + of.row * args.each * args.positions, index, of.live, y);
}

template <class scalar_t, int width, int vectors>
__global__ void __launch_bounds__(kHeldThreads, 1) group_norm_held(const Group<scalar_t> args) {
  using acc_t = acc_of<scalar_t>;
  const int count = int(args.each * args.positions / width), lane = threadIdx.x;
  const int64_t rows = args.batch * args.groups;
  int turn = 0;
  for (int64_t first = int64_t(blockIdx.x) * blockDim.y; first < rows; first += int64_t(gridDim.x) * blockDim.y) {
    const int64_t row = first + threadIdx.y, n = row / args.groups;
    const Held own{row, (row - n * args.groups) * args.each, row < rows ? count : 0, unsigned(args.positions / width)};
    Vector<scalar_t, width> x[vectors];
    load(x, args.x + n * args.x_stride + own.channel * args.positions, lane, own.live);
    acc_t sum = 0, squares = 0;
#pragma unroll
    for (int v = 0; v < vectors; ++v) add_up(sum, x[v]);
    const acc_t mean = row_sum(sum, turn ^= 1) * args.inverse;
    stay_packed(x);
#pragma unroll
    for (int v = 0; v < vectors; ++v)
      if (int(lane + v * blockDim.x) < own.live) add_squares(squares, x[v], mean);
    const acc_t rstd = rsqrt(row_sum(squares, turn ^= 1) * args.inverse + args.eps);
    stay_packed(x);
    if (own.live && lane == 0) args.mean[row] = mean, args.rstd[row] = rstd;
#pragma unroll
    for (int v = 0; v < vectors; ++v) finish(args, x[v], int(lane + v * blockDim.x), own, mean, rstd);
  }
}

// For narrow accesses, of which registers hold less: a block reads the group again.
template <class scalar_t, int width>
__global__ void __launch_bounds__(kHeldThreads) group_norm_twice(const Group<scalar_t> args) {
  using acc_t = acc_of<scalar_t>;
  constexpr int vectors = kChunkVectors;
  const int count = int(args.each * args.positions / width);
  int turn = 0;
  for (int64_t row = blockIdx.x; row < args.batch * args.groups; row += gridDim.x) {
    const int64_t n = row / args.groups;
    const Held own{row, (row - n * args.groups) * args.each, count, unsigned(args.positions / width)};
    const scalar_t* const from = args.x + n * args.x_stride + own.channel * args.positions;
    Vector<scalar_t, width> x[vectors];
    Moments<acc_t> found;
    for (int index = threadIdx.x; index < count; index += vectors * kHeldThreads) {
      load(x, from, index, count);
      found.add(x, min((count - index - 1) / kHeldThreads + 1, vectors));
    }
    const acc_t mean = mean_of_row(found, args.inverse, turn), rstd = rsqrt(found.squares * args.inverse + args.eps);
    if (threadIdx.x == 0) args.mean[row] = mean, args.rstd[row] = rstd;
    for (int index = threadIdx.x; index < count; index += kHeldThreads)
      finish(args, load_one<width>(from, index, count), index, own, mean, rstd);
  }
}

// A share of the positions of a channel, by the threads that have it: channels are counted through the batch, shares first.
template <int width, class scalar_t>
struct ChannelShare {
  int64_t row, n, channel, part;
  Share share = {0, 0};  // of its vectors
  bool live;

  __device__ explicit ChannelShare(const Group<scalar_t>& args) {
    const int64_t index = int64_t(blockIdx.x) * blockDim.y + threadIdx.y;
    row = index / args.parts, part = index - row * args.parts;
    n = row / args.channels, channel = row - n * args.channels;
    live = n < args.batch;
    if (live) share = share_of(args.positions / width, args.parts, part);
  }
  __device__ int64_t at(const Group<scalar_t>& args) const { return (n * args.parts + part) * args.channels + channel; }
};

template <class scalar_t, int width>
__global__ void __launch_bounds__(kThreads) group_norm_moments(const Group<scalar_t> args) {
  using acc_t = acc_of<scalar_t>;
  constexpr int vectors = 2 * vectors_at_once<scalar_t, width>;
  const ChannelShare<width, scalar_t> own(args);
  const scalar_t* const from = args.x + own.n * args.x_stride + own.channel * args.positions;
  const int64_t last = own.share.last, lanes = blockDim.x;
  Moments<acc_t> found;
  for (int64_t index = own.share.first + threadIdx.x; index < last; index += vectors * lanes) {
    Vector<scalar_t, width> x[vectors];
    load(x, from, index, last);
    found.add(x, int(min((last - index - 1) / lanes + 1, int64_t(vectors))));
  }
  int turn = 0;
  const acc_t mean = mean_of_row(found, 1 / acc_t((last - own.share.first) * width), turn);
  if (!own.live || threadIdx.x > 0) return;
  args.partial[own.at(args)] = mean;
  args.partial[own.at(args) + args.second()] = found.squares;
}

// mean and rstd of a group from the moments of its channels' shares, of which the positions are split in units.
template <class scalar_t>
__global__ void __launch_bounds__(kThreads) group_norm_merge(const Group<scalar_t> args, int64_t unit) {
  using acc_t = acc_of<scalar_t>;
  const int64_t row = int64_t(blockIdx.x) * blockDim.y + threadIdx.y, n = row / args.groups;
  const int64_t first = (row - n * args.groups) * args.each, entries = n < args.batch ? args.parts * args.each : 0;
  Moments<acc_t> own;
  for (int64_t entry = threadIdx.x; entry < entries; entry += blockDim.x) {
    const int64_t part = entry / args.each, at = (n * args.parts + part) * args.channels + first + entry - part * args.each;
    const Share share = share_of(args.positions / unit, args.parts, part);
    merge(own, acc_t((share.last - share.first) * unit), args.partial[at], args.partial[at + args.second()]);
  }
  int turn = 0;
  const acc_t mean = mean_of_row(own, args.inverse, turn);
  if (!entries || threadIdx.x > 0) return;
  args.mean[row] = mean;
  args.rstd[row] = rsqrt(own.squares * args.inverse + args.eps);
}

template <class scalar_t, int width>
__global__ void __launch_bounds__(kThreads) group_norm_apply(const Group<scalar_t> args, unsigned tiles) {
  using acc_t = acc_of<scalar_t>;
  constexpr int vectors = vectors_at_once<scalar_t, width>;
  const int64_t count = args.positions / width;
  const Tile tile = this_tile(args.batch * args.channels, tiles, vectors);
  for (int64_t row = tile.row; row < tile.last; row += blockDim.y) {
    const int64_t n = row / args.channels, channel = row - n * args.channels, group = row / args.each;
    Vector<scalar_t, width> x[vectors];
    load(x, args.x + n * args.x_stride + channel * args.positions, tile.index, count);
    const acc_t mean = args.mean[group], scale = args.rstd[group] * number(args.weight, channel, acc_t(1));
    const acc_t bias = number(args.bias, channel, acc_t(0));
#pragma unroll
    for (int v = 0; v < vectors; ++v) {
      auto y = unpack(x[v]);
#pragma unroll
      for (int i = 0; i < width; ++i) y[i] = (y[i] - mean) * scale + bias;
      activate_all<scalar_t>(args.silu, y);
      store_one(args.y + row * args.positions, tile.index + v * blockDim.x, count, y);
    }
  }
}

// Σ dz · n and Σ dz
template <class scalar_t, int width>
__global__ void __launch_bounds__(kThreads, 1) group_norm_sums(const Group<scalar_t> args) {
  using acc_t = acc_of<scalar_t>;
  constexpr int vectors = vectors_at_once<scalar_t, width>;
  const ChannelShare<width, scalar_t> own(args);
  const int64_t at = own.channel * args.positions, group = own.row / args.each;
  acc_t mean = 0, rstd = 0, scale = 0, bias = 0;
  if (own.live) {
    mean = args.mean[group], rstd = args.rstd[group];
    if (args.silu) scale = rstd * number(args.weight, own.channel, acc_t(1)), bias = number(args.bias, own.channel, acc_t(0));
  }
  Values<acc_t, 2> sums = {};
  for (int64_t index = own.share.first + threadIdx.x; index < own.share.last; index += vectors * blockDim.x) {
    Vector<scalar_t, width> grad[vectors], x[vectors];
    load(grad, args.grad + own.n * args.grad_stride + at, index, own.share.last);
    load(x, args.x + own.n * args.x_stride + at, index, own.share.last);
    Values<acc_t, 2> some = {};  // summed apart: the longer a sum, the more it rounds
#pragma unroll
    for (int v = 0; v < vectors; ++v) {
      const auto a = unpack(x[v]);
      auto dz = unpack(grad[v]);
      activate_all_backward<scalar_t>(args.silu, dz, [&](int i) { return (a[i] - mean) * scale + bias; });
#pragma unroll
      for (int i = 0; i < width; ++i) {
        some[0] += dz[i] * (a[i] - mean);
        some[1] += dz[i];
      }
    }
    sums[0] += some[0], sums[1] += some[1];
  }
  sums = row_sums(sums, 0);
  if (!own.live || threadIdx.x > 0) return;
  args.partial[own.at(args)] = sums[0] * rstd;
  args.partial[own.at(args) + args.second()] = sums[1];
}

// mean(g · n) and mean(g) of a group
template <class scalar_t>
__global__ void __launch_bounds__(kThreads) group_norm_means(const Group<scalar_t> args) {
  using acc_t = acc_of<scalar_t>;
  const int64_t row = int64_t(blockIdx.x) * blockDim.y + threadIdx.y, n = row / args.groups;
  const int64_t first = (row - n * args.groups) * args.each, entries = n < args.batch ? args.parts * args.each : 0;
  Values<acc_t, 2> sums = {};
  for (int64_t entry = threadIdx.x; entry < entries; entry += blockDim.x) {
    const int64_t part = entry / args.each, channel = first + entry - part * args.each;
    const int64_t at = (n * args.parts + part) * args.channels + channel;
    const acc_t w = number(args.weight, channel, acc_t(1));
    sums[0] += args.partial[at] * w;
    sums[1] += args.partial[at + args.second()] * w;
  }
  sums = row_sums(sums, 0);
  if (!entries || threadIdx.x > 0) return;
  args.means[row] = sums[0] * args.inverse;
  args.means[args.batch * args.groups + row] = sums[1] * args.inverse;
}

template <class scalar_t, int width>
__global__ void __launch_bounds__(kThreads) group_norm_gradient(const Group<scalar_t> args, unsigned tiles) {
  using acc_t = acc_of<scalar_t>;
  constexpr int vectors = vectors_at_once<scalar_t, width>;
  const int64_t count = args.positions / width;
  const Tile tile = this_tile(args.batch * args.channels, tiles, vectors);
  for (int64_t row = tile.row; row < tile.last; row += blockDim.y) {
    const int64_t n = row / args.channels, channel = row - n * args.channels, group = row / args.each;
    Vector<scalar_t, width> grad[vectors], x[vectors];
    load(grad, args.grad + n * args.grad_stride + channel * args.positions, tile.index, count);
    load(x, args.x + n * args.x_stride + channel * args.positions, tile.index, count);
    const acc_t mean = args.mean[group], rstd = args.rstd[group], w = number(args.weight, channel, acc_t(1));
    const acc_t bias = args.silu ? number(args.bias, channel, acc_t(0)) : acc_t(0);
    const acc_t slope = args.means[group] * rstd, shift = args.means[args.batch * args.groups + group];
#pragma unroll
    for (int v = 0; v < vectors; ++v) {
      const auto a = unpack(x[v]);
      auto d = unpack(grad[v]);
      activate_all_backward<scalar_t>(args.silu, d, [&](int i) { return (a[i] - mean) * (rstd * w) + bias; });
#pragma unroll
      for (int i = 0; i < width; ++i) d[i] = rstd * (d[i] * w - shift - (a[i] - mean) * slope);
      store_one(args.y + row * args.positions, tile.index + v * blockDim.x, count, d);
    }
  }
}

}  // namespace grouping
}  // namespace pylayers::cuda
