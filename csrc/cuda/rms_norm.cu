// y = x · rstd · (offset + weight), rstd = 1 / √(mean(x²) + eps) over the row, and its gradients. With w = offset +
// weight: dx = rstd · (grad · w − x · rstd² · mean(grad · w · x)), dweight = Σ_rows grad · x · rstd.
//
// Forward: a row is held in registers by part of a warp, a warp or a block (up to 128 KiB a row), so that x is read
// once and y written once. Longer rows are read twice; the second time, from the end, mostly out of the L2 cache.
//
// Backward: part p of `partial` is one block, which walks its share of the rows with the next row's loads under way
// while it works on the present one, and holds the sums of dweight in registers: x and grad are read once, dx is
// written once, and 8 bytes per part and column go through the partial sums (the second time mostly in the L2 cache).
// Rows above 32 KiB are read twice for dx, and once more for dweight by blocks that go down the columns.
//
// Full speed needs rows that start and end at multiples of 16 bytes; others take narrower accesses.

#include "device/column_sums.cuh"
#include "device/launch.cuh"
#include "device/rows.cuh"
#include "device/tiles.cuh"

namespace pylayers::cuda {
namespace {

constexpr int kForwardThreads = 1024, kBackwardThreads = 512, kChunkThreads = 512, kChunkVectors = 4;

template <class scalar_t>
struct Forward {
  using acc_t = acc_of<scalar_t>;
  scalar_t* y;
  acc_t* rstd;
  const scalar_t *x, *weight;
  int64_t rows, dim, y_stride, x_stride;
  acc_t eps, offset, inverse_dim;  // offset is 1 where there is no weight: weight then counts as 0
};

template <class scalar_t>
struct Backward {
  using acc_t = acc_of<scalar_t>;
  scalar_t* dx;
  acc_t* partial;
  const scalar_t *grad, *x, *weight;
  const acc_t* rstd;
  int64_t rows, dim, dx_stride, grad_stride, x_stride;
  acc_t offset, inverse_dim;
};

template <class V, class acc_t>
__device__ void add_squares(acc_t& sum, const V& vector) {
  const auto x = unpack(vector);
#pragma unroll
  for (int i = 0; i < V::width; ++i) sum += x[i] * x[i];
}

template <class V, class acc_t>
__device__ auto normalised(const V& x, const V& weight, acc_t rstd, acc_t offset) {
  const auto w = unpack(weight);
  auto y = unpack(x);
#pragma unroll
  for (int i = 0; i < V::width; ++i) y[i] = y[i] * rstd * (offset + w[i]);
  return y;
}

template <class V, class acc_t>
__device__ acc_t products(const V& grad, const V& x, const V& weight, acc_t offset) {
  const auto g = unpack(grad), a = unpack(x), w = unpack(weight);
  acc_t sum = 0;
#pragma unroll
  for (int i = 0; i < V::width; ++i) sum += g[i] * (offset + w[i]) * a[i];
  return sum;
}

// dx = rstd · (grad · w − x · slope), where slope = rstd² · mean(grad · w · x)
template <class V, class acc_t>
__device__ auto input_gradient(const V& grad, const V& x, const V& weight, acc_t rstd, acc_t slope, acc_t offset) {
  const auto a = unpack(x), w = unpack(weight);
  auto dx = unpack(grad);
#pragma unroll
  for (int i = 0; i < V::width; ++i) dx[i] = rstd * (dx[i] * (offset + w[i]) - a[i] * slope);
  return dx;
}

template <class V, class Sums, class acc_t>
__device__ void add_weight_gradient(Sums& sums, const V& grad, const V& x, acc_t rstd) {
  const auto g = unpack(grad), a = unpack(x);
#pragma unroll
  for (int i = 0; i < V::width; ++i) sums[i] += g[i] * (a[i] * rstd);
}

template <class scalar_t, int width, int vectors>
__global__ void __launch_bounds__(kForwardThreads) rms_norm_forward_rows(const Forward<scalar_t> args) {
  using acc_t = acc_of<scalar_t>;
  constexpr bool early_weight = vectors * width * sizeof(scalar_t) <= 64;  // while there are registers for it
  const int count = int(args.dim / width), lane = threadIdx.x;
  int turn = 0;
  for (int64_t first = int64_t(blockIdx.x) * blockDim.y; first < args.rows; first += int64_t(gridDim.x) * blockDim.y) {
    const int64_t row = first + threadIdx.y;
    const int live = row < args.rows ? count : 0;  // vectors that this row has
    Vector<scalar_t, width> x[vectors], weight[vectors];
    load(x, args.x + row * args.x_stride, lane, live);
    if constexpr (early_weight) load(weight, args.weight, lane, args.weight ? count : 0);
    acc_t sum = 0;
#pragma unroll
    for (int v = 0; v < vectors; ++v) add_squares(sum, x[v]);
    const acc_t rstd = rsqrt(row_sum(sum, turn ^= 1) * args.inverse_dim + args.eps);
    stay_packed(x);
    if (args.rstd && live && lane == 0) args.rstd[row] = rstd;
#pragma unroll
    for (int v = 0; v < vectors; ++v) {
      const int index = lane + v * blockDim.x;
      if constexpr (!early_weight) weight[v] = load_one<width>(args.weight, index, args.weight ? count : 0);
      store_one(args.y + row * args.y_stride, index, live, normalised(x[v], weight[v], rstd, args.offset));
    }
  }
}

template <class scalar_t, int width>
__global__ void __launch_bounds__(kChunkThreads) rms_norm_forward_chunks(const Forward<scalar_t> args) {
  using acc_t = acc_of<scalar_t>;
  constexpr int step = kChunkThreads * kChunkVectors;
  const int64_t count = args.dim / width, last = (count - 1) / step * step + threadIdx.x;
  int turn = 0;
  for (int64_t row = blockIdx.x; row < args.rows; row += gridDim.x) {
    const scalar_t* const x_row = args.x + row * args.x_stride;
    Vector<scalar_t, width> x[kChunkVectors], weight[kChunkVectors];
    acc_t sum = 0;
    for (int64_t index = threadIdx.x; index <= last; index += step) {
      load(x, x_row, index, count);
      acc_t some = 0;  // summed apart: the longer a sum, the more it rounds
#pragma unroll
      for (int v = 0; v < kChunkVectors; ++v) add_squares(some, x[v]);
      sum += some;
    }
    const acc_t rstd = rsqrt(row_sum(sum, turn ^= 1) * args.inverse_dim + args.eps);
    if (args.rstd && threadIdx.x == 0) args.rstd[row] = rstd;
    for (int64_t index = last; index >= 0; index -= step) {
      load(x, x_row, index, count);
      load(weight, args.weight, index, args.weight ? count : 0);
#pragma unroll
      for (int v = 0; v < kChunkVectors; ++v)
        store_one(args.y + row * args.y_stride, index + v * kChunkThreads, count,
                  normalised(x[v], weight[v], rstd, args.offset));
    }
  }
}

template <class scalar_t, int width, int vectors>
struct BackwardRow {
  Vector<scalar_t, width> grad[vectors], x[vectors];
  acc_of<scalar_t> rstd = 0;

  __device__ BackwardRow(const Backward<scalar_t>& args, int64_t row, int64_t last, int count) {
    const int live = row < last ? count : 0;
    load(x, args.x + row * args.x_stride, int(threadIdx.x), live);
    load(grad, args.grad + row * args.grad_stride, int(threadIdx.x), live);
    if (live) rstd = args.rstd[row];
  }
};

template <class scalar_t, int width, int vectors>
__global__ void __launch_bounds__(kBackwardThreads) rms_norm_backward_rows(const Backward<scalar_t> args) {
  using acc_t = acc_of<scalar_t>;
  constexpr bool keep_weight = vectors * width * sizeof(scalar_t) <= 32;  // while there are registers for it
  const int count = int(args.dim / width), lane = threadIdx.x, weight_count = args.weight ? count : 0;
  const Share share = share_of(args.rows, gridDim.x, blockIdx.x);
  Vector<scalar_t, width> weight[vectors];
  if constexpr (keep_weight) load(weight, args.weight, lane, weight_count);
  Values<acc_t, width> sums[vectors] = {};
  int turn = 0;
  int64_t row = share.first + threadIdx.y;
  BackwardRow<scalar_t, width, vectors> next(args, row, share.last, count);
  for (int64_t first = share.first; first < share.last; first += blockDim.y, row += blockDim.y) {
    BackwardRow<scalar_t, width, vectors> own = next;
    next = BackwardRow<scalar_t, width, vectors>(args, row + blockDim.y, share.last, count);
    acc_t dot = 0;
#pragma unroll
    for (int v = 0; v < vectors; ++v) {
      if constexpr (!keep_weight) weight[v] = load_one<width>(args.weight, int(lane + v * blockDim.x), weight_count);
      dot += products(own.grad[v], own.x[v], weight[v], args.offset);
    }
    const acc_t slope = row_sum(dot, turn ^= 1) * args.inverse_dim * own.rstd * own.rstd;
    stay_packed(own.grad);
    stay_packed(own.x);
#pragma unroll
    for (int v = 0; v < vectors; ++v) {
      const int index = lane + v * blockDim.x;
      if constexpr (!keep_weight) weight[v] = load_one<width>(args.weight, index, weight_count);
      store_one(args.dx + row * args.dx_stride, index, row < share.last ? count : 0,
                input_gradient(own.grad[v], own.x[v], weight[v], own.rstd, slope, args.offset));
      if (args.partial) add_weight_gradient(sums[v], own.grad[v], own.x[v], own.rstd);
    }
  }
  if (!args.partial) return;
  add_groups(sums);
#pragma unroll
  for (int v = 0; v < vectors; ++v) {
    const int index = lane + v * blockDim.x;
    if (threadIdx.y == 0 && index < count)
      store_sums(args.partial + blockIdx.x * args.dim + index * width, sums[v]);
  }
}

template <class scalar_t, int width>
__global__ void __launch_bounds__(kChunkThreads) rms_norm_backward_chunks(const Backward<scalar_t> args) {
  using acc_t = acc_of<scalar_t>;
  constexpr int vectors = kChunkVectors / 2, step = kChunkThreads * vectors;
  const int64_t count = args.dim / width, last = (count - 1) / step * step + threadIdx.x;
  const int64_t weight_count = args.weight ? count : 0;
  int turn = 0;
  for (int64_t row = blockIdx.x; row < args.rows; row += gridDim.x) {
    const scalar_t *const x_row = args.x + row * args.x_stride, *const grad_row = args.grad + row * args.grad_stride;
    Vector<scalar_t, width> x[vectors], grad[vectors], weight[vectors];
    acc_t dot = 0;
    for (int64_t index = threadIdx.x; index <= last; index += step) {
      load(x, x_row, index, count);
      load(grad, grad_row, index, count);
      load(weight, args.weight, index, weight_count);
#pragma unroll
      for (int v = 0; v < vectors; ++v) dot += products(grad[v], x[v], weight[v], args.offset);
    }
    const acc_t rstd = args.rstd[row], slope = row_sum(dot, turn ^= 1) * args.inverse_dim * rstd * rstd;
    for (int64_t index = last; index >= 0; index -= step) {
      load(x, x_row, index, count);
      load(grad, grad_row, index, count);
      load(weight, args.weight, index, weight_count);
#pragma unroll
      for (int v = 0; v < vectors; ++v)
        store_one(args.dx + row * args.dx_stride, index + v * kChunkThreads, count,
                  input_gradient(grad[v], x[v], weight[v], rstd, slope, args.offset));
    }
  }
}

template <class scalar_t, int width>
__global__ void __launch_bounds__(256) rms_norm_backward_columns(const Backward<scalar_t> args, int64_t tiles) {
  using acc_t = acc_of<scalar_t>;
  constexpr int rows = rows_at_once<scalar_t, width>;
  const int64_t count = args.dim / width;
  const Tile tile = this_tile(args.rows, tiles, 1);
  Values<acc_t, width> sums[1] = {};
  for (int64_t first = tile.row; first < tile.last; first += rows * blockDim.y) {
    Vector<scalar_t, width> grad[rows], x[rows];
    acc_t rstd[rows];
#pragma unroll
    for (int r = 0; r < rows; ++r) {
      const int64_t row = first + r * blockDim.y, live = row < tile.last ? count : 0;
      grad[r] = load_one<width>(args.grad + row * args.grad_stride, tile.index, live);
      x[r] = load_one<width>(args.x + row * args.x_stride, tile.index, live);
      rstd[r] = live ? args.rstd[row] : acc_t(0);
    }
#pragma unroll
    for (int r = 0; r < rows; ++r) add_weight_gradient(sums[0], grad[r], x[r], rstd[r]);
  }
  add_groups(sums);
  if (threadIdx.y == 0 && tile.index < count)
    store_sums(args.partial + tile.share * args.dim + tile.index * width, sums[0]);
}

// How many vectors a thread may hold of a row: what fits the registers without spilling.
template <class Access, int... full>
using Vectors = std::conditional_t<Access::bytes == 16, std::integer_sequence<int, full...>,
                                   std::integer_sequence<int, 2, Access::bytes == 8 ? 4 : 8>>;
constexpr int64_t kFewRows = 256;

template <class Access, class scalar_t>
void launch_forward(Access, Stream stream, const Forward<scalar_t>& args) {
  constexpr int width = Access::width;
  const Vectors<Access, 1, 2, 4, 8> options;
  const RowPlan plan = plan_rows(options, args.dim / width, args.rows <= kFewRows, Access::bytes == 16 ? 4 : 8,
                                 kForwardThreads, 128);
  dispatch_int(options, plan.vectors, [&](auto vectors) {
    launch("rms_norm_forward", rms_norm_forward_rows<scalar_t, width, vectors>,
           std::min<int64_t>(ceil_div(args.rows, plan.threads.y), INT_MAX), plan.threads, 0, stream, args);
  });
  if (plan.vectors == 0)
    launch("rms_norm_forward", rms_norm_forward_chunks<scalar_t, width>, std::min<int64_t>(args.rows, INT_MAX),
           kChunkThreads, 0, stream, args);
}

template <class Access, class scalar_t>
void launch_backward(Access, Stream stream, const Backward<scalar_t>& args, int64_t parts) {
  constexpr int width = Access::width;
  const Vectors<Access, 1, 2, 4> options;
  const RowPlan plan = plan_rows(options, args.dim / width, args.rows <= kFewRows, Access::bytes == 16 ? 2 : 8,
                                 kBackwardThreads, parts == 0 || parts > 132 ? 256 : 512);
  const bool fused = args.dx && parts > 0 && plan.vectors > 0;
  if (args.dx) {
    Backward<scalar_t> given = args;
    if (!fused) given.partial = nullptr;
    dispatch_int(options, plan.vectors, [&](auto vectors) {
      const int64_t blocks = fused ? parts : std::min<int64_t>(ceil_div(args.rows, plan.threads.y), 32 * 132);
      launch("rms_norm_backward", rms_norm_backward_rows<scalar_t, width, vectors>, blocks, plan.threads,
             fused ? group_bytes(plan.threads, vectors * width * sizeof(acc_of<scalar_t>)) : 0, stream, given);
    });
    if (plan.vectors == 0)
      launch("rms_norm_backward", rms_norm_backward_chunks<scalar_t, width>, std::min<int64_t>(args.rows, INT_MAX),
             kChunkThreads, 0, stream, given);
  }
  if (parts > 0 && !fused) {
    const TilePlan columns = plan_tiles(args.dim / width, 1, 64);
    launch("rms_norm_backward", rms_norm_backward_columns<scalar_t, width>, columns.blocks(parts), columns.threads,
           group_bytes(columns.threads, width * sizeof(acc_of<scalar_t>)), stream, args, columns.tiles);
  }
}

}  // namespace

void rms_norm_forward(Stream stream, Output y, Output rstd, Input x, Input weight, double eps, double offset) {
  dispatch(x.dtype, access_bytes(y, x, weight), [&](auto access) {
    using scalar_t = typename decltype(access)::scalar_t;
    using acc_t = acc_of<scalar_t>;
    launch_forward(access, stream,
                   Forward<scalar_t>{data<scalar_t>(y), data<acc_t>(rstd), data<const scalar_t>(x),
                                     data<const scalar_t>(weight), x.rows(), x.dim(), y.stride[0], x.stride[0],
                                     acc_t(eps), acc_t(weight ? offset : 1), acc_t(1. / x.dim())});
  });
}

void rms_norm_backward(Stream stream, Output dx, Output dweight, Output partial, Input grad, Input x, Input weight,
                       Input rstd, double offset) {
  dispatch(x.dtype, access_bytes(dx, partial, grad, x, weight), [&](auto access) {
    using scalar_t = typename decltype(access)::scalar_t;
    using acc_t = acc_of<scalar_t>;
    launch_backward(access, stream,
                    Backward<scalar_t>{data<scalar_t>(dx), data<acc_t>(partial), data<const scalar_t>(grad),
                                       data<const scalar_t>(x), data<const scalar_t>(weight), data<const acc_t>(rstd),
                                       x.rows(), x.dim(), dx.stride[0], grad.stride[0], x.stride[0],
                                       acc_t(weight ? offset : 1), acc_t(1. / x.dim())},
                    dweight ? partial.rows() : 0);
  });
  if (dweight) add_parts("rms_norm_backward", stream, dweight, partial);
}

}  // namespace pylayers::cuda
