// softmax and log_softmax along dim of [outer, dim, inner], and backward from y.
//
// A block takes 128 bytes of neighbouring columns. Its threads walk down the columns, several rows at a time, each with a
// running maximum of its own, and meet in shared memory; then they walk down once more for the output. x, and in backward
// grad and y, are read twice, the second time mostly out of the L2 cache.
//
// Full speed needs rows that start and end at multiples of 16 bytes; others take narrower accesses.

#include "device/column_sums.cuh"
#include "device/softmax.cuh"

namespace pylayers::cuda {
namespace {

constexpr int kThreads = 512, kBytes = 128;

// What a thread loads before it works on it.
template <class scalar_t>
inline constexpr int rows_at_once = sizeof(scalar_t) == 8 ? 2 : 4;

template <class scalar_t>
struct Columns {
  scalar_t* out;                // y, or dx
  const scalar_t *grad, *in;    // grad in backward alone; x, or y
  int64_t dim, inner, tiles;
  bool log;
};

// This thread's columns, and its rows out of all outer · dim.
struct Place {
  int64_t index, first, end;
  template <class Args>
  __device__ explicit Place(const Args& args) {
    const unsigned matrix = blockIdx.x / unsigned(args.tiles), tile = blockIdx.x % unsigned(args.tiles);
    index = int64_t(tile) * blockDim.x + threadIdx.x;
    first = matrix * args.dim + threadIdx.y;
    end = (matrix + int64_t(1)) * args.dim;
  }
};

// Gives what the threads of threadIdx.y = 0 have to all that share their columns.
template <int width, class T>
__device__ void share_columns(T (&values)[width]) {
  extern __shared__ double dynamic_shared[];
  T* own = reinterpret_cast<T*>(dynamic_shared) + threadIdx.x;
#pragma unroll
  for (int i = 0; i < width; ++i)
    if (threadIdx.y == 0) own[i * blockDim.x] = values[i];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < width; ++i) values[i] = own[i * blockDim.x];
}

// Merges those of all threadIdx.y into those of threadIdx.y = 0, in a fixed tree.
template <int width, class scalar_t>
__device__ void merge_groups(Online<scalar_t> (&found)[width]) {
  extern __shared__ double dynamic_shared[];
  auto* shared = reinterpret_cast<Online<scalar_t>*>(dynamic_shared);
  const int group = threadIdx.y, lanes = blockDim.x;
  for (int half = blockDim.y / 2; half > 0; half /= 2) {
    auto* own = shared + (group % half) * lanes + threadIdx.x;
#pragma unroll
    for (int i = 0; i < width; ++i)
      if (group >= half && group < 2 * half) own[i * half * lanes] = found[i];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < width; ++i)
      if (group < half) found[i].merge(own[i * half * lanes]);
    __syncthreads();
  }
}

template <class scalar_t, int width>
__global__ void __launch_bounds__(kThreads) softmax_columns_forward_kernel(const Columns<scalar_t> args) {
  using acc_t = acc_of<scalar_t>;
  constexpr int rows = rows_at_once<scalar_t>;
  const int64_t count = args.inner / width;
  const Place place(args);
  Online<scalar_t> found[width];
  for (int64_t first = place.first; first < place.end; first += rows * blockDim.y) {
    Vector<scalar_t, width> x[rows];
#pragma unroll
    for (int r = 0; r < rows; ++r) {
      const int64_t row = first + r * blockDim.y;
      x[r] = load_one<width>(args.in + row * args.inner, place.index, row < place.end ? count : 0);
    }
    Values<acc_t, width> s[rows];
#pragma unroll
    for (int r = 0; r < rows; ++r) s[r] = unpack(x[r]);
#pragma unroll
    for (int i = 0; i < width; ++i) {
      acc_t top = found[i].top;
#pragma unroll
      for (int r = 0; r < rows; ++r) {
        if (first + r * blockDim.y >= place.end) s[r][i] = -infinity<acc_t>();
        top = larger(top, s[r][i]);
      }
      found[i].raise(top);
#pragma unroll
      for (int r = 0; r < rows; ++r) found[i].add(s[r][i]);
    }
  }
  merge_groups(found);
  share_columns(found);
  acc_t shift[width], rest[width];  // rest: subtracted too with log, else multiplied by
#pragma unroll
  for (int i = 0; i < width; ++i) {
    const acc_t total = found[i].total;
    shift[i] = shift_of(found[i].top);
    if (args.log) rest[i] = log(total);
    else rest[i] = total == 0 ? nan<acc_t>() : reciprocal(total);
  }
  for (int64_t row = place.first; row < place.end; row += blockDim.y) {
    auto y = unpack(load_one<width>(args.in + row * args.inner, place.index, count));
#pragma unroll
    for (int i = 0; i < width; ++i) {
      y[i] -= shift[i];
      y[i] = args.log ? y[i] - rest[i] : exponential<scalar_t>(y[i]) * rest[i];
    }
    store_one(args.out + row * args.inner, place.index, count, y);
  }
}

template <class scalar_t, int width>
__global__ void __launch_bounds__(kThreads) softmax_columns_backward_kernel(const Columns<scalar_t> args) {
  using acc_t = acc_of<scalar_t>;
  constexpr int rows = rows_at_once<scalar_t>;
  const int64_t count = args.inner / width;
  const Place place(args);
  Values<acc_t, width> sums[1] = {};
  for (int64_t first = place.first; first < place.end; first += rows * blockDim.y) {
    Vector<scalar_t, width> grad[rows], y[rows];
#pragma unroll
    for (int r = 0; r < rows; ++r) {
      const int64_t row = first + r * blockDim.y, there = row < place.end ? count : 0;
      grad[r] = load_one<width>(args.grad + row * args.inner, place.index, there);
      y[r] = load_one<width>(args.in + row * args.inner, place.index, args.log ? 0 : there);
    }
#pragma unroll
    for (int r = 0; r < rows; ++r) {
      const auto g = unpack(grad[r]), a = unpack(y[r]);
#pragma unroll
      for (int i = 0; i < width; ++i) sums[0][i] += args.log ? g[i] : g[i] * a[i];
    }
  }
  add_groups(sums);
  share_columns(sums[0].value);
  for (int64_t row = place.first; row < place.end; row += blockDim.y) {
    auto dx = unpack(load_one<width>(args.grad + row * args.inner, place.index, count));
    const auto a = unpack(load_one<width>(args.in + row * args.inner, place.index, count));
#pragma unroll
    for (int i = 0; i < width; ++i)
      dx[i] = args.log ? dx[i] - exponential<scalar_t>(a[i]) * sums[0][i] : a[i] * (dx[i] - sums[0][i]);
    store_one(args.out + row * args.inner, place.index, count, dx);
  }
}

// body(access, args, blocks, threads) for views [outer, dim, inner].
template <class Body>
void dispatch_columns(Output out, Input grad, Input in, int64_t log, const Body& body) {
  const int64_t outer = in.size[0], dim = in.size[1], inner = in.size[2];
  dispatch(in.dtype, access_bytes(out, grad, in), [&](auto access) {
    using scalar_t = typename decltype(access)::scalar_t;
    constexpr int width = decltype(access)::width;
    const int lanes = std::min(power_of_two_from(inner / width), kBytes / decltype(access)::bytes);
    const int groups = std::min(power_of_two_from(ceil_div(dim, rows_at_once<scalar_t>)), kThreads / lanes);
    const int64_t tiles = ceil_div(inner / width, lanes);
    body(access,
         Columns<scalar_t>{data<scalar_t>(out), data<const scalar_t>(grad), data<const scalar_t>(in), dim, inner, tiles,
                           log != 0},
         outer * tiles, dim3(lanes, groups));
  });
}

size_t shared_bytes(dim3 threads, size_t bytes_of_a_thread) {
  return std::max(group_bytes(threads, bytes_of_a_thread), threads.x * bytes_of_a_thread);
}

}  // namespace

void softmax_columns_forward(Stream stream, Output y, Input x, int64_t log) {
  dispatch_columns(y, {}, x, log, [&](auto access, const auto& args, int64_t blocks, dim3 threads) {
    using scalar_t = typename decltype(access)::scalar_t;
    constexpr int width = decltype(access)::width;
    launch("softmax_columns_forward", softmax_columns_forward_kernel<scalar_t, width>,
           blocks, threads, shared_bytes(threads, width * sizeof(Online<scalar_t>)), stream, args);
  });
}

void softmax_columns_backward(Stream stream, Output dx, Input grad, Input y, int64_t log) {
  dispatch_columns(dx, grad, y, log, [&](auto access, const auto& args, int64_t blocks, dim3 threads) {
    using scalar_t = typename decltype(access)::scalar_t;
    constexpr int width = decltype(access)::width;
    launch("softmax_columns_backward", softmax_columns_backward_kernel<scalar_t, width>,
           blocks, threads, shared_bytes(threads, width * sizeof(acc_of<scalar_t>)), stream, args);
  });
}

}  // namespace pylayers::cuda
