// Backward of the normalisations of rows. With g = grad · (offset + weight) and n = (x − mean) · rstd:
// d = rstd · (g − mean(g) − n · mean(g · n)), where the mean of g counts only if one was subtracted; dweight = Σ_rows grad
// · n, dbias = Σ_rows grad. Where x was a sum that is an output too, its incoming gradient is added to d.
//
// Part p of `partial` is one block or cluster, which walks its share of the rows with the next row's loads under way while it
// works on the present one, and holds the sums of dweight and dbias in registers: every matrix is read once, d is written once, and
// 8 bytes per part, column and sum go through the partial sums (the second time mostly in the L2 cache). Rows that are too
// long for that are read twice for d, and once more for the sums by blocks that go down the columns.
#pragma once

#include "column_sums.cuh"
#include "norm.cuh"
#include "tiles.cuh"

namespace pylayers::cuda {

struct NormBackward {
  Output dx, dresidual, dweight, dbias, partial;
  Input grad, dtotal, x, weight, mean, rstd;  // x is what was normalised
  double offset;
};

constexpr int kBackwardThreads = 512;

template <class Norm>
inline constexpr int kSums = Norm::centred ? 2 : 1;  // along a row, and over the rows

template <class Norm>
struct BackwardArgs {
  using scalar_t = typename Norm::scalar_t;
  using row_t = typename Norm::row_t;
  using acc_t = acc_of<scalar_t>;
  scalar_t* dx;
  acc_t *dresidual, *dweight, *dbias;  // the last two: their parts
  const scalar_t* grad;
  const row_t *dtotal, *x;
  const scalar_t* weight;
  const acc_t *mean, *rstd;
  int64_t rows, dim, grad_stride, dtotal_stride, x_stride;
  acc_t offset, inverse_dim;

  explicit BackwardArgs(const NormBackward& on)
      : dx(data<scalar_t>(on.dx)), dresidual(data<acc_t>(on.dresidual)),
        dweight(on.dweight ? data<acc_t>(on.partial) : nullptr),
        dbias(!on.dbias ? nullptr : data<acc_t>(on.partial) + (on.dweight ? on.partial.rows() / 2 * on.x.dim() : 0)),
        grad(data<const scalar_t>(on.grad)), dtotal(data<const row_t>(on.dtotal)), x(data<const row_t>(on.x)),
        weight(data<const scalar_t>(on.weight)), mean(data<const acc_t>(on.mean)), rstd(data<const acc_t>(on.rstd)),
        rows(on.x.rows()), dim(on.x.dim()), grad_stride(on.grad.stride[0]), dtotal_stride(on.dtotal.stride[0]),
        x_stride(on.x.stride[0]), offset(acc_t(on.weight ? on.offset : 1)), inverse_dim(acc_t(1. / on.x.dim())) {}

  __device__ void skip(int columns) {
    grad += columns, x += columns;
    if (dx) dx += columns;
    if (dresidual) dresidual += columns;
    if (dweight) dweight += columns;
    if (dbias) dbias += columns;
    if (dtotal) dtotal += columns;
    if (weight) weight += columns;
  }
};

// Of one row: its mean and rstd, and with them slope = rstd² · mean(g · (x − mean)) and shift = mean(g).
template <class acc_t>
struct RowNumbers {
  acc_t mean = 0, rstd = 0, slope = 0, shift = 0;

  template <class Norm>
  __device__ void load(const BackwardArgs<Norm>& args, int64_t row) {
    rstd = args.rstd[row];
    if constexpr (Norm::centred) mean = args.mean[row];
  }
  template <int count>
  __device__ void take(const Values<acc_t, count>& sums, acc_t inverse_dim) {
    slope = sums[0] * inverse_dim * rstd * rstd;
    if constexpr (count > 1) shift = sums[1] * inverse_dim;
  }
};

// Adds Σ g · (x − mean) to sums[0], and Σ g to sums[1] where there is one.
template <class G, class V, class acc_t, int count>
__device__ void add_products(Values<acc_t, count>& sums, const G& grad, const V& x, const G& weight, acc_t mean, acc_t offset) {
  const auto g = unpack(grad), w = unpack(weight);
  const auto a = unpack(x);
#pragma unroll
  for (int i = 0; i < V::width; ++i) {
    sums[0] += g[i] * (offset + w[i]) * (a[i] - mean);
    if constexpr (count > 1) sums[1] += g[i] * (offset + w[i]);
  }
}

// rstd · (g − shift − (x − mean) · slope) + dtotal
template <class Norm, class G, class V, class acc_t>
__device__ auto input_gradient(const G& grad, const V& x, const G& weight, const V& dtotal, const RowNumbers<acc_t>& of,
                               acc_t offset) {
  const auto a = unpack(x), more = unpack(dtotal);
  const auto w = unpack(weight);
  auto d = unpack(grad);
#pragma unroll
  for (int i = 0; i < V::width; ++i) {
    d[i] = of.rstd * (d[i] * (offset + w[i]) - of.shift - (a[i] - of.mean) * of.slope);
    if constexpr (Norm::adds) d[i] += more[i];
  }
  return d;
}

template <class G, class V, class acc_t, int width>
__device__ void add_to_sums(Values<acc_t, width>& dweight, Values<acc_t, width>* dbias, const G& grad, const V& x,
                            const RowNumbers<acc_t>& of) {
  const auto g = unpack(grad);
  const auto a = unpack(x);
#pragma unroll
  for (int i = 0; i < width; ++i) {
    dweight[i] += g[i] * ((a[i] - of.mean) * of.rstd);
    if (dbias) (*dbias)[i] += g[i];
  }
}

template <class Norm, class acc_t, int width, class Index>
__device__ void store_gradient(const BackwardArgs<Norm>& args, int64_t row, Index index, Index count,
                               const Values<acc_t, width>& d) {
  if (!Norm::adds || args.dx) store_one(args.dx + row * args.dim, index, count, d);
  if (Norm::adds && args.dresidual && index < count) store_sums(args.dresidual + row * args.dim + index * width, d);
}

// The sums of this thread's vectors to row `part` of the parts.
template <class Norm, class acc_t, int width, int vectors>
__device__ void store_parts(const BackwardArgs<Norm>& args, int64_t part, int64_t index, int64_t count,
                            Values<acc_t, width> (&sums)[vectors]) {
  add_groups(sums);
#pragma unroll
  for (int v = 0; v < vectors / kSums<Norm>; ++v, index += blockDim.x) {
    if (threadIdx.y > 0 || index >= count) continue;
    if (args.dweight) store_sums(args.dweight + part * args.dim + index * width, sums[kSums<Norm> * v]);
    if (Norm::centred && args.dbias) store_sums(args.dbias + part * args.dim + index * width, sums[kSums<Norm> * v + 1]);
  }
}

template <class Norm, int width, int vectors>
struct BackwardRow {
  Vector<typename Norm::scalar_t, width> grad[vectors];
  Vector<typename Norm::row_t, width> x[vectors];
  RowNumbers<acc_of<typename Norm::scalar_t>> numbers;

  __device__ BackwardRow(const BackwardArgs<Norm>& args, int64_t row, int64_t last, int count) {
    const int live = row < last ? count : 0;
    load(x, args.x + row * args.x_stride, int(threadIdx.x), live);
    load(grad, args.grad + row * args.grad_stride, int(threadIdx.x), live);
    if (live) numbers.load(args, row);
  }
};

template <class Norm, int width, int vectors, class Team>
__device__ void norm_backward_held(BackwardArgs<Norm> args, const Team team) {
  using scalar_t = typename Norm::scalar_t;
  using acc_t = acc_of<scalar_t>;
  using Row = BackwardRow<Norm, width, vectors>;
  constexpr bool keep_weight = vectors * width * sizeof(scalar_t) <= 32;  // while there are registers for it
  const Slice slice = team.slice(int(args.dim / width));
  const int count = slice.count, lane = threadIdx.x, weight_count = args.weight ? count : 0;
  const Share share = share_of(args.rows, team.count(), team.index());
  args.skip(slice.first * width);
  Vector<scalar_t, width> weight[vectors];
  if constexpr (keep_weight) load(weight, args.weight, lane, weight_count);
  Values<acc_t, width> sums[kSums<Norm> * vectors] = {};
  int turn = 0;
  int64_t row = share.first + threadIdx.y;
  Row next(args, row, share.last, count);
  for (int64_t first = share.first; first < share.last; first += blockDim.y, row += blockDim.y) {
    const int live = row < share.last ? count : 0;
    Row own = next;
    Vector<typename Norm::row_t, width> dtotal[vectors] = {};
    if constexpr (Norm::adds) load(dtotal, args.dtotal + row * args.dtotal_stride, lane, args.dtotal ? live : 0);
    next = Row(args, row + blockDim.y, share.last, count);
    Values<acc_t, kSums<Norm>> products = {};
#pragma unroll
    for (int v = 0; v < vectors; ++v) {
      if constexpr (!keep_weight) weight[v] = load_one<width>(args.weight, int(lane + v * blockDim.x), weight_count);
      add_products(products, own.grad[v], own.x[v], weight[v], own.numbers.mean, args.offset);
    }
    own.numbers.take(row_sums(products, turn ^= 1, team), args.inverse_dim);
    stay_packed(own.grad);
    stay_packed(own.x);
#pragma unroll
    for (int v = 0; v < vectors; ++v) {
      const int index = lane + v * blockDim.x;
      if constexpr (!keep_weight) weight[v] = load_one<width>(args.weight, index, weight_count);
      store_gradient(args, row, index, live,
                     input_gradient<Norm>(own.grad[v], own.x[v], weight[v], dtotal[v], own.numbers, args.offset));
      if (args.dweight || (Norm::centred && args.dbias))
        add_to_sums(sums[kSums<Norm> * v], Norm::centred ? &sums[kSums<Norm> * (v + 1) - 1] : nullptr, own.grad[v],
                    own.x[v], own.numbers);
    }
  }
  if (args.dweight || (Norm::centred && args.dbias)) store_parts(args, team.index(), lane, count, sums);
}

template <class Norm, int width, int vectors>
__global__ void __launch_bounds__(kBackwardThreads) norm_backward_rows(const BackwardArgs<Norm> args) {
  norm_backward_held<Norm, width, vectors>(args, Block());
}

template <class Norm, int width>
__global__ void __launch_bounds__(kChunkThreads) norm_backward_chunks(const BackwardArgs<Norm> args) {
  using scalar_t = typename Norm::scalar_t;
  using acc_t = acc_of<scalar_t>;
  constexpr int vectors = kChunkVectors / 2, step = kChunkThreads * vectors;
  const int64_t count = args.dim / width, last = (count - 1) / step * step + threadIdx.x;
  const int64_t weight_count = args.weight ? count : 0;
  int turn = 0;
  for (int64_t row = blockIdx.x; row < args.rows; row += gridDim.x) {
    const auto* const x_row = args.x + row * args.x_stride;
    const auto* const grad_row = args.grad + row * args.grad_stride;
    Vector<typename Norm::row_t, width> x[vectors], dtotal[vectors] = {};
    Vector<scalar_t, width> grad[vectors], weight[vectors];
    RowNumbers<acc_t> numbers;
    numbers.load(args, row);
    Values<acc_t, kSums<Norm>> products = {};
    for (int64_t index = threadIdx.x; index <= last; index += step) {
      load(x, x_row, index, count);
      load(grad, grad_row, index, count);
      load(weight, args.weight, index, weight_count);
#pragma unroll
      for (int v = 0; v < vectors; ++v) add_products(products, grad[v], x[v], weight[v], numbers.mean, args.offset);
    }
    numbers.take(row_sums(products, turn ^= 1), args.inverse_dim);
    for (int64_t index = last; index >= 0; index -= step) {
      load(x, x_row, index, count);
      load(grad, grad_row, index, count);
      load(weight, args.weight, index, weight_count);
      if constexpr (Norm::adds) load(dtotal, args.dtotal + row * args.dtotal_stride, index, args.dtotal ? count : 0);
#pragma unroll
      for (int v = 0; v < vectors; ++v)
        store_gradient(args, row, index + v * kChunkThreads, count,
                       input_gradient<Norm>(grad[v], x[v], weight[v], dtotal[v], numbers, args.offset));
    }
  }
}

template <class Norm, int width>
__global__ void __launch_bounds__(256, 4) norm_backward_columns(const BackwardArgs<Norm> args, int64_t tiles) {
  using scalar_t = typename Norm::scalar_t;
  using acc_t = acc_of<scalar_t>;
  constexpr int rows = rows_at_once<scalar_t, width>;
  const int64_t count = args.dim / width;
  const Tile tile = this_tile(args.rows, tiles, 1);
  Values<acc_t, width> sums[kSums<Norm>] = {};
  for (int64_t first = tile.row; first < tile.last; first += rows * blockDim.y) {
    Vector<scalar_t, width> grad[rows];
    Vector<typename Norm::row_t, width> x[rows];
    RowNumbers<acc_t> numbers[rows];
#pragma unroll
    for (int r = 0; r < rows; ++r) {
      const int64_t row = first + r * blockDim.y, live = row < tile.last ? count : 0;
      grad[r] = load_one<width>(args.grad + row * args.grad_stride, tile.index, live);
      x[r] = load_one<width>(args.x + row * args.x_stride, tile.index, live);
      if (live) numbers[r].load(args, row);
    }
#pragma unroll
    for (int r = 0; r < rows; ++r)
      add_to_sums(sums[0], Norm::centred ? &sums[kSums<Norm> - 1] : nullptr, grad[r], x[r], numbers[r]);
  }
  store_parts(args, tile.share, tile.index, count, sums);
}

}  // namespace pylayers::cuda
