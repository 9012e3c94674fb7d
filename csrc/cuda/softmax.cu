// y = eˣ / Σ eˣ or x − ln Σ eˣ over the row, and the softmax of scaled and masked scores; backward from y:
// dx = scale · y · (grad − Σ grad · y), with log dx = grad − eʸ · Σ grad.
//
// Rows: a row is held in registers by part of a warp, a warp, a block (up to 64 KiB) or a cluster, so that x and mask are
// read once and y written once; backward holds y and grad. Longer rows, and those of GPUs without clusters, are read twice:
// first with a running maximum, then from the end, mostly out of the L2 cache. What causal hides is neither read nor
// computed, only written.
//
// Full speed needs rows that start and end at multiples of 16 bytes; others take narrower accesses.

#include <limits>

#include "device/softmax_cluster.cuh"

namespace pylayers::cuda {
namespace {

// 1024 threads have 64 registers each, too few for four vectors of 16 bits as float32.
template <class scalar_t>
inline constexpr int kThreads = sizeof(scalar_t) == 2 ? 512 : 1024;
constexpr int kChunkThreads = 512, kChunkVectors = 4;

template <class scalar_t, int width, int vectors>
__global__ void __launch_bounds__(kThreads<scalar_t>) softmax_forward_rows(const SoftmaxForward<scalar_t> args) {
  softmax_forward_held<scalar_t, width, vectors>(args, Block());
}

template <class scalar_t, int width, int vectors>
__global__ void __launch_bounds__(kThreads<scalar_t>) softmax_backward_rows(const SoftmaxBackward<scalar_t> args) {
  softmax_backward_held<scalar_t, width, vectors>(args, Block());
}

template <class scalar_t, int width>
__global__ void __launch_bounds__(kChunkThreads, sizeof(scalar_t) * width < 8 ? 2 : 1) softmax_forward_chunks(const SoftmaxForward<scalar_t> args) {
  using acc_t = acc_of<scalar_t>;
  constexpr int step = kChunkThreads * kChunkVectors;
  const int64_t count = args.dim / width, last = (count - 1) / step * step + threadIdx.x;
  int turn = 0;
  for (int64_t row = blockIdx.x; row < args.rows; row += gridDim.x) {
    const int64_t live = args.sight.live(row), some = args.sight.template live_vectors<width>(row), offset = args.mask.offset(row);
    const scalar_t* const x_row = args.x + row * args.x_stride;
    Vector<scalar_t, width> x[kChunkVectors];
    Online<scalar_t> found;
    for (int64_t index = threadIdx.x; index < some; index += step) {
      load(x, x_row, index, some);
      Values<acc_t, width> s[kChunkVectors];
      acc_t top = found.top;
#pragma unroll
      for (int i = 0; i < kChunkVectors * width; ++i) {
        const int v = i / width;
        if (i % width == 0) s[v] = scores(x[v], args.mask, offset, args.scale, index + v * kChunkThreads, live);
        top = larger(top, s[v][i % width]);
      }
      found.raise(top);
#pragma unroll
      for (int i = 0; i < kChunkVectors * width; ++i) found.add(s[i / width][i % width]);
    }
    found.raise(row_max(found.top, turn ^= 1));
    found.total = row_sum(found.total, turn);
    const Finish<scalar_t> finish(found, args.of_nothing, args.log);
    for (int64_t index = last; index >= 0; index -= step) {
      load(x, x_row, index, some);
#pragma unroll
      for (int v = 0; v < kChunkVectors; ++v) {
        const int64_t at = index + v * kChunkThreads;
        store_one(args.y + row * args.y_stride, at, count, finish(scores(x[v], args.mask, offset, args.scale, at, live)));
      }
    }
  }
}

template <class scalar_t, int width>
__global__ void __launch_bounds__(kChunkThreads) softmax_backward_chunks(const SoftmaxBackward<scalar_t> args) {
  using acc_t = acc_of<scalar_t>;
  constexpr int vectors = kChunkVectors / 2, step = kChunkThreads * vectors;
  const int64_t count = args.dim / width, last = (count - 1) / step * step + threadIdx.x;
  int turn = 0;
  for (int64_t row = blockIdx.x; row < args.rows; row += gridDim.x) {
    const int64_t some = args.sight.template live_vectors<width>(row);
    const scalar_t *const grad_row = args.grad + row * args.grad_stride, *const y_row = args.y + row * args.y_stride;
    Vector<scalar_t, width> grad[vectors], y[vectors];
    acc_t sum = 0;
    for (int64_t index = threadIdx.x; index < some; index += step) {
      load(grad, grad_row, index, some);
      load(y, y_row, index, some);
#pragma unroll
      for (int v = 0; v < vectors; ++v) sum += products<Vector<scalar_t, width>, acc_t>(grad[v], y[v], args.log);
    }
    sum = row_sum(sum, turn ^= 1);
    for (int64_t index = last; index >= 0; index -= step) {
      load(grad, grad_row, index, some);
      load(y, y_row, index, some);
#pragma unroll
      for (int v = 0; v < vectors; ++v)
        store_one(args.dx + row * args.dx_stride, index + v * kChunkThreads, count,
                  softmax_gradient(grad[v], y[v], sum, args.scale, args.log));
    }
  }
}

// How many vectors a thread may hold of a row: forward as float32, backward as they are stored, twice.
template <class Access>
using Vectors = std::conditional_t<Access::bytes == 16, std::integer_sequence<int, 1, 2, 4>,
                                   std::integer_sequence<int, 2, Access::width == 1 && Access::bytes <= 4 ? 8 : 4>>;

// The kernels of either step, by what they are given.
template <int vectors, class scalar_t, int width>
auto* rows_kernel(Access<scalar_t, width>, const SoftmaxForward<scalar_t>&) {
  return softmax_forward_rows<scalar_t, width, vectors>;
}

template <int vectors, class scalar_t, int width>
auto* rows_kernel(Access<scalar_t, width>, const SoftmaxBackward<scalar_t>&) {
  return softmax_backward_rows<scalar_t, width, vectors>;
}

template <class scalar_t, int width>
auto* chunks_kernel(Access<scalar_t, width>, const SoftmaxForward<scalar_t>&) {
  return softmax_forward_chunks<scalar_t, width>;
}

template <class scalar_t, int width>
auto* chunks_kernel(Access<scalar_t, width>, const SoftmaxBackward<scalar_t>&) {
  return softmax_backward_chunks<scalar_t, width>;
}

template <class Access, class Args>
void launch_softmax(const char* name, Access access, Stream stream, const Args& args) {
  const Vectors<Access> options;
  const RowPlan plan = plan_rows(options, args.dim / Access::width, args.rows <= kFewRows, Access::bytes == 16 ? 2 : 4,
                                 kThreads<typename Access::scalar_t>, 128);
  dispatch_int(options, plan.vectors, [&](auto vectors) {
    launch(name, rows_kernel<vectors>(access, args), std::min<int64_t>(ceil_div(args.rows, plan.threads.y), INT_MAX),
           plan.threads, 0, stream, args);
  });
  if (plan.vectors == 0 && !launch_softmax_cluster(name, access, stream, args))
    launch(name, chunks_kernel(access, args), std::min<int64_t>(args.rows, INT_MAX), kChunkThreads, 0, stream, args);
}

// The widest access to numbers of `size` bytes that a mask can go along with, whose own take `own` bytes.
int bytes_along(const Input& mask, int64_t own, int64_t size) {
  uintptr_t bits = 16 | reinterpret_cast<uintptr_t>(mask.data) / own;
  for (int i = 0; i < 3; ++i)
    if (mask && mask.size[i] > 1) bits |= uintptr_t(mask.stride[i]);
  return mask ? int(std::min<int64_t>(int64_t(bits & -bits) * size, 16)) : 16;
}

void forward(const char* name, Stream stream, Output y, Input x, Input added, Input allowed, double scale,
             int64_t queries, bool causal, bool log, double of_nothing) {
  if ((added || allowed || causal) && x.rows() > UINT_MAX) fail(name, "too many rows for one launch");
  const int64_t size = bytes_of(x.dtype);
  const int bytes =
      std::min({access_bytes(y, x), bytes_along(added, size, size), bytes_along(allowed, 1, size)});
  const Input& mask = added ? added : allowed;
  dispatch(x.dtype, bytes, [&](auto access) {
    using scalar_t = typename decltype(access)::scalar_t;
    using acc_t = acc_of<scalar_t>;
    launch_softmax(name, access, stream,
                   SoftmaxForward<scalar_t>{data<scalar_t>(y), data<const scalar_t>(x), x.rows(), x.dim(), y.stride[0],
                                            x.stride[0],
                                            {data<const scalar_t>(added), data<const uint8_t>(allowed),
                                             unsigned(mask ? mask.size[1] : 1), unsigned(mask ? mask.size[2] : 1),
                                             {mask.stride[0], mask.stride[1], mask.stride[2]}},
                                            {x.dim(), unsigned(queries), causal}, acc_t(scale), acc_t(of_nothing), log});
  });
}

void backward(const char* name, Stream stream, Output dx, Input grad, Input y, double scale, int64_t queries,
              bool causal, bool log) {
  if (causal && y.rows() > UINT_MAX) fail(name, "too many rows for one launch");
  dispatch(y.dtype, access_bytes(dx, grad, y), [&](auto access) {
    using scalar_t = typename decltype(access)::scalar_t;
    launch_softmax(name, access, stream,
                   SoftmaxBackward<scalar_t>{data<scalar_t>(dx), data<const scalar_t>(grad), data<const scalar_t>(y),
                                             y.rows(), y.dim(), dx.stride[0], grad.stride[0], y.stride[0],
                                             {y.dim(), unsigned(queries), causal}, acc_of<scalar_t>(scale), log});
  });
}

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

}  // namespace

void softmax_forward(Stream stream, Output y, Input x, int64_t log) {
  forward("softmax_forward", stream, y, x, {}, {}, 1, 1, false, log != 0, kNan);
}

void softmax_backward(Stream stream, Output dx, Input grad, Input y, int64_t log) {
  backward("softmax_backward", stream, dx, grad, y, 1, 1, false, log != 0);
}

void softmax_masked_forward(Stream stream, Output y, Input x, Input mask, Input allowed, double scale, int64_t queries,
                            int64_t causal) {
  forward("softmax_masked_forward", stream, y, x, mask, allowed, scale, queries, causal != 0, false, 0);
}

void softmax_masked_backward(Stream stream, Output dx, Input grad, Input y, double scale, int64_t queries,
                             int64_t causal) {
  backward("softmax_masked_backward", stream, dx, grad, y, scale, queries, causal != 0, false);
}

}  // namespace pylayers::cuda
