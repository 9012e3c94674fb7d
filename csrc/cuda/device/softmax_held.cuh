// Softmax of rows that are held by a Team of threads, of a block or of a cluster, and its gradient.
#pragma once

#include "softmax.cuh"

namespace pylayers::cuda {

template <class scalar_t>
struct SoftmaxForward {
  using acc_t = acc_of<scalar_t>;
  scalar_t* y;
  const scalar_t* x;
  int64_t rows, dim, y_stride, x_stride;
  Mask<scalar_t> mask;
  Sight sight;
  acc_t scale, of_nothing;  // instead of 1 / total where that is 0: where all scores are −inf
  bool log;

  __device__ void skip(int columns) {
    y += columns, x += columns;
    if (mask.added) mask.added += columns;
    if (mask.allowed) mask.allowed += columns;
  }
};

template <class scalar_t>
struct SoftmaxBackward {
  using acc_t = acc_of<scalar_t>;
  scalar_t* dx;
  const scalar_t *grad, *y;
  int64_t rows, dim, dx_stride, grad_stride, y_stride;
  Sight sight;
  acc_t scale;
  bool log;

  __device__ void skip(int columns) { dx += columns, grad += columns, y += columns; }
};

// From scores to y: what is subtracted from them, and what the exponentials of the rest are multiplied by.
template <class scalar_t>
struct Finish {
  using acc_t = acc_of<scalar_t>;
  acc_t shift, rest;  // rest: subtracted too with log, else multiplied by
  bool log;

  __device__ Finish(const Online<scalar_t>& row, acc_t of_nothing, bool log_of_it)
      : shift(shift_of(row.top)), rest(row.total == 0 ? of_nothing : reciprocal(row.total)), log(log_of_it) {
    if (log) rest = ::log(row.total);
  }
  template <int width>
  __device__ Values<acc_t, width> operator()(Values<acc_t, width> s) const {
#pragma unroll
    for (int i = 0; i < width; ++i) {
      s[i] -= shift;
      s[i] = log ? s[i] - rest : exponential<scalar_t>(s[i]) * rest;
    }
    return s;
  }
};

template <class scalar_t, int width, int vectors, class Team>
__device__ void softmax_forward_held(SoftmaxForward<scalar_t> args, const Team team) {
  using acc_t = acc_of<scalar_t>;
  const Slice slice = team.slice(int(args.dim / width));
  const int count = slice.count, lane = threadIdx.x;
  args.skip(slice.first * width);
  int turn = 0;
  for (int64_t first = team.index() * blockDim.y; first < args.rows; first += team.count() * blockDim.y) {
    const int64_t row = first + threadIdx.y;
    const bool there = row < args.rows;
    const int live = there ? slice.columns(args.sight.live(row), width) : 0;
    const int64_t offset = args.mask.offset(there ? row : 0);
    Vector<scalar_t, width> x[vectors];
    load(x, args.x + row * args.x_stride, lane, (live + width - 1) / width);
    Values<acc_t, width> s[vectors];
    Online<scalar_t> found;
#pragma unroll
    for (int v = 0; v < vectors; ++v) {
      s[v] = scores(x[v], args.mask, offset, args.scale, lane + v * blockDim.x, live);
#pragma unroll
      for (int i = 0; i < width; ++i) found.top = larger(found.top, s[v][i]);
    }
    found.top = row_max(found.top, turn ^= 1, team);
#pragma unroll
    for (int i = 0; i < vectors * width; ++i) {
      acc_t& value = s[i / width][i % width];
      value -= shift_of(found.top);
      const acc_t e = exponential<scalar_t>(value);
      found.total += e;
      if (!args.log) value = e;
    }
    found.total = row_sum(found.total, turn, team);
    const Finish<scalar_t> finish(found, args.of_nothing, args.log);
#pragma unroll
    for (int v = 0; v < vectors; ++v) {
#pragma unroll
      for (int i = 0; i < width; ++i) s[v][i] = args.log ? s[v][i] - finish.rest : s[v][i] * finish.rest;
      store_one(args.y + row * args.y_stride, int(lane + v * blockDim.x), there ? count : 0, s[v]);
    }
  }
}

template <class V, class acc_t>
__device__ acc_t products(const V& grad, const V& y, bool log) {
  const auto g = unpack(grad), a = unpack(y);
  acc_t sum = 0;
#pragma unroll
  for (int i = 0; i < V::width; ++i) sum += log ? g[i] : g[i] * a[i];
  return sum;
}

template <class scalar_t, int width>
__device__ auto softmax_gradient(const Vector<scalar_t, width>& grad, const Vector<scalar_t, width>& y,
                               acc_of<scalar_t> sum, acc_of<scalar_t> scale, bool log) {
  const auto a = unpack(y);
  auto dx = unpack(grad);
#pragma unroll
  for (int i = 0; i < width; ++i)
    dx[i] = log ? dx[i] - exponential<scalar_t>(a[i]) * sum : a[i] * ((dx[i] - sum) * scale);
  return dx;
}

template <class scalar_t, int width, int vectors, class Team>
__device__ void softmax_backward_held(SoftmaxBackward<scalar_t> args, const Team team) {
  using acc_t = acc_of<scalar_t>;
  const Slice slice = team.slice(int(args.dim / width));
  const int count = slice.count, lane = threadIdx.x;
  args.skip(slice.first * width);
  int turn = 0;
  for (int64_t first = team.index() * blockDim.y; first < args.rows; first += team.count() * blockDim.y) {
    const int64_t row = first + threadIdx.y;
    const bool there = row < args.rows;
    const int some = there ? (slice.columns(args.sight.live(row), width) + width - 1) / width : 0;
    Vector<scalar_t, width> grad[vectors], y[vectors];
    load(grad, args.grad + row * args.grad_stride, lane, some);
    load(y, args.y + row * args.y_stride, lane, some);
    acc_t sum = 0;
#pragma unroll
    for (int v = 0; v < vectors; ++v) sum += products<Vector<scalar_t, width>, acc_t>(grad[v], y[v], args.log);
    sum = row_sum(sum, turn ^= 1, team);
    stay_packed(grad);
    stay_packed(y);
#pragma unroll
    for (int v = 0; v < vectors; ++v)
      store_one(args.dx + row * args.dx_stride, int(lane + v * blockDim.x), there ? count : 0,
                softmax_gradient(grad[v], y[v], sum, args.scale, args.log));
  }
}

}  // namespace pylayers::cuda
