// Forward of the normalisations of rows: y = (x − mean) · rstd · (offset + weight) + bias, rstd = 1 / √(mean((x − mean)²)
// + eps). A Norm says whether a mean is subtracted at all, and whether x is the sum of two matrices, which is then written
// too, and normalised as it was rounded.
//
// A row is held in registers by part of a warp, a warp, a block (up to 128 KiB a row, or 64) or a cluster, so that every input is
// read once and every output written once; the variance is a second pass over the registers. Longer rows, and those of GPUs
// without clusters, are read twice; the second time, from the end, mostly out of the L2 cache, and their variance is merged from
// that of pieces.
//
// Full speed needs rows that start and end at multiples of 16 bytes; others take narrower accesses.
#pragma once

#include "launch.cuh"
#include "rows.cuh"

namespace pylayers::cuda {

// Kinds of norms. scalar_t: of x, y, weight and bias; residual_t: of what is added; row_t: of what is normalised.
template <class scalar>
struct RmsNorm {
  using scalar_t = scalar;
  using residual_t = scalar;
  using row_t = scalar;
  static constexpr bool centred = false, adds = false;
};

template <class scalar>
struct LayerNorm : RmsNorm<scalar> {
  static constexpr bool centred = true;
};

template <class scalar, class residual, class row>
struct AddRmsNorm {
  using scalar_t = scalar;
  using residual_t = residual;
  using row_t = row;
  static constexpr bool centred = false, adds = true;
};

template <class scalar, class residual, class row>
struct AddLayerNorm : AddRmsNorm<scalar, residual, row> {
  static constexpr bool centred = true;
};

struct NormForward {
  Output y, total, mean, rstd;
  Input x, residual, weight, bias;
  double eps, offset;
};

constexpr int kChunkThreads = 512, kChunkVectors = 4;

// 1024 threads have 64 registers each, which is enough for the simplest kind with wide accesses alone.
template <class Norm, int width>
inline constexpr int kForwardThreads =
    Norm::centred || Norm::adds || width * sizeof(typename Norm::scalar_t) < 16 ? 512 : 1024;

template <class Norm>
struct ForwardArgs {
  using scalar_t = typename Norm::scalar_t;
  using acc_t = acc_of<scalar_t>;
  scalar_t* y;
  typename Norm::row_t* total;
  acc_t *mean, *rstd;
  const scalar_t* x;
  const typename Norm::residual_t* residual;
  const scalar_t *weight, *bias;
  int64_t rows, dim, x_stride, residual_stride;
  acc_t eps, offset, inverse_dim;  // offset is 1 where there is no weight: weight then counts as 0

  explicit ForwardArgs(const NormForward& on)
      : y(data<scalar_t>(on.y)), total(data<typename Norm::row_t>(on.total)), mean(data<acc_t>(on.mean)),
        rstd(data<acc_t>(on.rstd)), x(data<const scalar_t>(on.x)),
        residual(data<const typename Norm::residual_t>(on.residual)), weight(data<const scalar_t>(on.weight)),
        bias(data<const scalar_t>(on.bias)), rows(on.x.rows()), dim(on.x.dim()), x_stride(on.x.stride[0]),
        residual_stride(on.residual.stride[0]), eps(acc_t(on.eps)), offset(acc_t(on.weight ? on.offset : 1)),
        inverse_dim(acc_t(1. / on.x.dim())) {}

  __device__ void skip(int columns) {
    y += columns, x += columns;
    if constexpr (Norm::adds) total += columns, residual += columns;
    if (weight) weight += columns;
    if (Norm::centred && bias) bias += columns;
  }
};

template <class V, class acc_t>
__device__ void add_up(acc_t& sum, const V& vector) {
  const auto x = unpack(vector);
#pragma unroll
  for (int i = 0; i < V::width; ++i) sum += x[i];
}

template <class V, class acc_t>
__device__ void add_squares(acc_t& sum, const V& vector, acc_t mean) {
  const auto x = unpack(vector);
#pragma unroll
  for (int i = 0; i < V::width; ++i) sum += (x[i] - mean) * (x[i] - mean);
}

template <class Norm, class V, class Parameter, class acc_t>
__device__ auto normalised(const V& x, const Parameter& weight, const Parameter& bias, acc_t mean, acc_t rstd,
                           acc_t offset) {
  const auto w = unpack(weight), b = unpack(bias);
  auto y = unpack(x);
#pragma unroll
  for (int i = 0; i < V::width; ++i) {
    y[i] = (y[i] - mean) * rstd * (offset + w[i]);
    if constexpr (Norm::centred) y[i] += b[i];
  }
  return y;
}

// Vectors index, index + blockDim.x, … of what is normalised: of x, or of the sum, which is written on the way.
template <class Norm, int width, int vectors, class Index>
__device__ void load_row(Vector<typename Norm::row_t, width> (&row)[vectors], const ForwardArgs<Norm>& args,
                         int64_t number, Index index, Index count) {
  if constexpr (!Norm::adds) {
    load(row, args.x + number * args.x_stride, index, count);
  } else {
    constexpr int some = vectors < 4 ? vectors : 4;  // at once, or both matrices would not fit the registers
#pragma unroll
    for (int first = 0; first < vectors; first += some, index += some * blockDim.x) {
      Vector<typename Norm::scalar_t, width> x[some];
      Vector<typename Norm::residual_t, width> residual[some];
      load(x, args.x + number * args.x_stride, index, count);
      load(residual, args.residual + number * args.residual_stride, index, count);
#pragma unroll
      for (int v = 0; v < some; ++v) {
        const auto a = unpack(x[v]);
        auto sum = unpack(residual[v]);
#pragma unroll
        for (int i = 0; i < width; ++i) sum[i] += a[i];
        row[first + v] = pack<typename Norm::row_t>(sum);
        store_one(args.total + number * args.dim, Index(index + v * blockDim.x), count, sum);
      }
    }
  }
}

// Rows that are held by a Team of threads: of a block or of a cluster.
template <class Norm, int width, int vectors, class Team>
__device__ void norm_forward_held(ForwardArgs<Norm> args, const Team team) {
  using scalar_t = typename Norm::scalar_t;
  using acc_t = acc_of<scalar_t>;
  // While there are registers for them.
  constexpr bool early = Norm::centred || Norm::adds ? vectors <= 2 : vectors * width * sizeof(scalar_t) <= 64;
  const Slice slice = team.slice(int(args.dim / width));
  const int count = slice.count, lane = threadIdx.x;
  args.skip(slice.first * width);
  const int weight_count = args.weight ? count : 0, bias_count = Norm::centred && args.bias ? count : 0;
  int turn = 0;
  for (int64_t first = team.index() * blockDim.y; first < args.rows; first += team.count() * blockDim.y) {
    const int64_t row = first + threadIdx.y;
    const int live = row < args.rows ? count : 0;  // vectors that this row has
    Vector<typename Norm::row_t, width> x[vectors];
    Vector<scalar_t, width> weight[vectors], bias[vectors];
    load_row(x, args, row, lane, live);
    if constexpr (early) load(weight, args.weight, lane, weight_count), load(bias, args.bias, lane, bias_count);
    acc_t mean = 0, squares = 0;
    if constexpr (Norm::centred) {
      acc_t sum = 0;
#pragma unroll
      for (int v = 0; v < vectors; ++v) add_up(sum, x[v]);
      mean = row_sum(sum, turn ^= 1, team) * args.inverse_dim;
      stay_packed(x);
      if (args.mean && live && team.leads()) args.mean[row] = mean;
    }
#pragma unroll
    for (int v = 0; v < vectors; ++v)
      if (!Norm::centred || int(lane + v * blockDim.x) < live) add_squares(squares, x[v], mean);
    const acc_t rstd = rsqrt(row_sum(squares, turn ^= 1, team) * args.inverse_dim + args.eps);
    stay_packed(x);
    if (args.rstd && live && team.leads()) args.rstd[row] = rstd;
#pragma unroll
    for (int v = 0; v < vectors; ++v) {
      const int index = lane + v * blockDim.x;
      if constexpr (!early) {
        weight[v] = load_one<width>(args.weight, index, weight_count);
        bias[v] = load_one<width>(args.bias, index, bias_count);
      }
      store_one(args.y + row * args.dim, index, live, normalised<Norm>(x[v], weight[v], bias[v], mean, rstd, args.offset));
    }
  }
}

template <class Norm, int width, int vectors>
__global__ void __launch_bounds__(kForwardThreads<Norm, width>, 1) norm_forward_rows(const ForwardArgs<Norm> args) {
  norm_forward_held<Norm, width, vectors>(args, Block());
}

// Mean and Σ (x − mean)² of what one thread has seen of a row.
template <class acc_t>
struct Moments {
  acc_t count = 0, mean = 0, squares = 0;

  template <class V, int vectors>
  __device__ void add(const V (&x)[vectors], int live) {  // the first `live` vectors
    acc_t sum = 0, own = 0;
    const acc_t more = acc_t(live * V::width), all = count + more;
#pragma unroll
    for (int v = 0; v < vectors; ++v) add_up(sum, x[v]);
    if (live == 0) return;
    sum /= more;
#pragma unroll
    for (int v = 0; v < vectors; ++v)
      if (v < live) add_squares(own, x[v], sum);
    const acc_t away = sum - mean, part = more / all;
    mean += away * part;
    squares += own + away * away * count * part;
    count = all;
  }
};

// How many of the vectors index, index + kChunkThreads, … are in a row of `count`.
__device__ inline int live_vectors(int64_t index, int64_t count) {
  return index >= count ? 0 : int(min((count - index - 1) / kChunkThreads + 1, int64_t(kChunkVectors)));
}

template <class Norm, int width>
__global__ void __launch_bounds__(kChunkThreads) norm_forward_chunks(const ForwardArgs<Norm> args) {
  using scalar_t = typename Norm::scalar_t;
  using acc_t = acc_of<scalar_t>;
  constexpr int step = kChunkThreads * kChunkVectors;
  const int64_t count = args.dim / width, last = (count - 1) / step * step + threadIdx.x;
  int turn = 0;
  for (int64_t row = blockIdx.x; row < args.rows; row += gridDim.x) {
    Vector<typename Norm::row_t, width> x[kChunkVectors];
    Moments<acc_t> own;
    for (int64_t index = threadIdx.x; index <= last; index += step) {
      load_row(x, args, row, index, count);
      if constexpr (Norm::centred) {
        own.add(x, live_vectors(index, count));
      } else {
        acc_t some = 0;  // summed apart: the longer a sum, the more it rounds
#pragma unroll
        for (int v = 0; v < kChunkVectors; ++v) add_squares(some, x[v], acc_t(0));
        own.squares += some;
      }
    }
    acc_t mean = 0;
    if constexpr (Norm::centred) {
      mean = row_sum(own.mean * own.count, turn ^= 1) * args.inverse_dim;
      own.squares += own.count * (own.mean - mean) * (own.mean - mean);
      if (args.mean && threadIdx.x == 0) args.mean[row] = mean;
    }
    const acc_t rstd = rsqrt(row_sum(own.squares, turn ^= 1) * args.inverse_dim + args.eps);
    if (args.rstd && threadIdx.x == 0) args.rstd[row] = rstd;
    for (int64_t index = last; index >= 0; index -= step) {
      Vector<scalar_t, width> weight[kChunkVectors], bias[kChunkVectors];
      if constexpr (Norm::adds) load(x, args.total + row * args.dim, index, count);  // what this thread has written
      else load(x, args.x + row * args.x_stride, index, count);
      load(weight, args.weight, index, args.weight ? count : 0);
      load(bias, args.bias, index, Norm::centred && args.bias ? count : 0);
#pragma unroll
      for (int v = 0; v < kChunkVectors; ++v)
        store_one(args.y + row * args.dim, index + v * kChunkThreads, count,
                  normalised<Norm>(x[v], weight[v], bias[v], mean, rstd, args.offset));
    }
  }
}

}  // namespace pylayers::cuda
