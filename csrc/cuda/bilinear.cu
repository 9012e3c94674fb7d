// A block z[row, a, c] between matrix products: z = left[row, a] · right[row, c], and the sums over either factor,
// left_sum[row, a] = bias[a] + Σ_c z · right, right_sum[row, c] = before[row, c] + Σ_a z · left.
//
// A block of threads belongs to one row. Outer and right_sum: threads stand along c and hold their piece of right, or of
// the sums, while they walk along a; z is written, or read, once. left_sum: part of a warp, or a warp, sums four vectors
// of z at a time, so that right is read from the cache once for four. Where both sums are asked for, z is read twice.

#include "device/column_sums.cuh"
#include "device/launch.cuh"
#include "device/share.cuh"
#include "device/tiles.cuh"

namespace pylayers::cuda {
namespace {

constexpr int kThreads = 256, kColumnLanes = 64, kAtOnce = 4;
constexpr int64_t kBlocks = 4 * 132;  // wanted, where rows are few

template <class scalar_t>
struct Outer {
  scalar_t* z;
  const scalar_t *left, *right;
  int64_t count, dim, tiles, shares, z_stride, left_stride, right_stride;
};

template <class scalar_t>
struct LeftSum {
  scalar_t* sum;
  const scalar_t *z, *right, *bias;
  int64_t count, dim, shares, sum_stride, z_stride, right_stride;
};

template <class scalar_t>
struct RightSum {
  acc_of<scalar_t>* sum;
  const acc_of<scalar_t>* before;
  const scalar_t *z, *left;
  int64_t count, dim, tiles, sum_stride, before_stride, z_stride, left_stride;
};

template <class scalar_t>
__device__ acc_of<scalar_t> value_at(const scalar_t* from) {
  return unpack(*reinterpret_cast<const Vector<scalar_t, 1>*>(from))[0];
}

// The next numbers of a row, up to kThreads of `left`, for all threads of a block. Returns how many.
template <class scalar_t>
__device__ int load_factors(acc_of<scalar_t>* factors, const scalar_t* from, int64_t left) {
  const int count = int(min(left, int64_t(kThreads)));
  __syncthreads();  // those before are read
  for (int i = threadIdx.y * blockDim.x + threadIdx.x; i < count; i += blockDim.x * blockDim.y)
    factors[i] = value_at(from + i);
  __syncthreads();
  return count;
}

template <class scalar_t, int width>
__global__ void __launch_bounds__(kThreads) bilinear_outer_kernel(const Outer<scalar_t> args) {
  const int64_t row = blockIdx.x / (args.tiles * args.shares), rest = blockIdx.x % (args.tiles * args.shares);
  const int64_t index = rest % args.tiles * blockDim.x + threadIdx.x, vectors = args.dim / width;
  const Share own = share_of(args.count, args.shares, rest / args.tiles);
  const auto right = unpack(load_one<width>(args.right + row * args.right_stride, index, vectors));
  __shared__ acc_of<scalar_t> factors[kThreads];
  for (int64_t first = own.first; first < own.last; first += kThreads) {
    const int count = load_factors(factors, args.left + row * args.left_stride + first, own.last - first);
#pragma unroll 4
    for (int a = threadIdx.y; a < count; a += blockDim.y) {
      auto z = right;
#pragma unroll
      for (int i = 0; i < width; ++i) z[i] *= factors[a];
      store_one(args.z + row * args.z_stride + (first + a) * args.dim, index, vectors, z);
    }
  }
}

template <class scalar_t, int width>
__global__ void __launch_bounds__(kThreads) bilinear_left_sum_kernel(const LeftSum<scalar_t> args) {
  using acc_t = acc_of<scalar_t>;
  const int64_t row = blockIdx.x / args.shares, vectors = args.dim / width;
  const Share own = share_of(args.count, args.shares, blockIdx.x % args.shares);
  const scalar_t* const right = args.right + row * args.right_stride;
  // All groups take the same number of turns: lanes of a warp that belong to other vectors wait at the shuffles.
  for (int64_t start = own.first; start < own.last; start += kAtOnce * blockDim.y) {
    const int64_t first = start + threadIdx.y * kAtOnce;
    acc_t sums[kAtOnce] = {};
    for (int64_t index = threadIdx.x; index < vectors; index += blockDim.x) {
      Vector<scalar_t, width> z[kAtOnce];
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k)
        z[k] = load_one<width>(args.z + row * args.z_stride + (first + k) * args.dim, index,
                               first + k < own.last ? vectors : 0);
      const auto r = unpack(load_one<width>(right, index, first < own.last ? vectors : 0));
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        const auto values = unpack(z[k]);
#pragma unroll
        for (int i = 0; i < width; ++i) sums[k] += values[i] * r[i];
      }
    }
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k)
      for (int offset = blockDim.x / 2; offset > 0; offset /= 2) sums[k] += __shfl_xor_sync(~0u, sums[k], offset);
    // All lanes have all sums: each of the first stores one, or a few where there are fewer.
    for (int k = threadIdx.x; k < kAtOnce && first + k < own.last; k += blockDim.x) {
      acc_t sum = sums[0];
#pragma unroll
      for (int other = 1; other < kAtOnce; ++other) sum = k == other ? sums[other] : sum;
      if (args.bias) sum += value_at(args.bias + first + k);
      store_one(args.sum + row * args.sum_stride, first + k, own.last, Values<acc_t, 1>{sum});
    }
  }
}

template <class scalar_t, int width>
__global__ void __launch_bounds__(kThreads) bilinear_right_sum_kernel(const RightSum<scalar_t> args) {
  using acc_t = acc_of<scalar_t>;
  const int64_t row = blockIdx.x / args.tiles, vectors = args.dim / width;
  const int64_t index = blockIdx.x % args.tiles * blockDim.x + threadIdx.x;
  const scalar_t *const z = args.z + row * args.z_stride, *const left = args.left + row * args.left_stride;
  __shared__ acc_t factors[kThreads];
  Values<acc_t, width> sums[1] = {};
  for (int64_t first = 0; first < args.count; first += kThreads) {
    const int count = load_factors(factors, left + first, args.count - first);
    for (int start = threadIdx.y; start < count; start += kAtOnce * blockDim.y) {
      Vector<scalar_t, width> values[kAtOnce];
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        const int a = start + k * blockDim.y;
        values[k] = load_one<width>(z + (first + a) * args.dim, index, a < count ? vectors : 0);
      }
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        const int a = start + k * blockDim.y;
        const auto v = unpack(values[k]);
#pragma unroll
        for (int i = 0; i < width; ++i) sums[0][i] += a < count ? v[i] * factors[a] : acc_t(0);
      }
    }
  }
  add_groups(sums);
  if (threadIdx.y > 0 || index >= vectors) return;
  if (args.before) {
    constexpr int step = width * sizeof(acc_t) >= 16 ? 16 / sizeof(acc_t) : 1;
    const acc_t* const before = args.before + row * args.before_stride + index * width;
#pragma unroll
    for (int i = 0; i < width; i += step) {
      const auto more = unpack(*reinterpret_cast<const Vector<acc_t, step>*>(before + i));
#pragma unroll
      for (int j = 0; j < step; ++j) sums[0][i + j] += more[j];
    }
  }
  store_sums(args.sum + row * args.sum_stride + index * width, sums[0]);
}

int64_t shares_of(int64_t count, int64_t blocks) { return std::clamp<int64_t>(ceil_div(kBlocks, blocks), 1, count); }

void left_sum(Stream stream, const Output& sum, const Input& z, const Input& right, const Input& bias) {
  const int64_t count = sum.dim(), dim = right.dim();
  Input vector = z;  // of z, as it is accessed
  vector.size[1] = dim;
  dispatch(z.dtype, access_bytes(vector, right), [&](auto access) {
    using scalar_t = typename decltype(access)::scalar_t;
    constexpr int width = decltype(access)::width;
    const int lanes = power_of_two_from(std::min<int64_t>(dim / width, 32));
    const int groups = std::min(kThreads / lanes, std::max(power_of_two_from(ceil_div(count, kAtOnce)), 32 / lanes));
    const int64_t shares = shares_of(ceil_div(count, kAtOnce * groups), z.rows());
    launch("bilinear_contract", bilinear_left_sum_kernel<scalar_t, width>, z.rows() * shares, dim3(lanes, groups), 0,
           stream,
           LeftSum<scalar_t>{data<scalar_t>(sum), data<const scalar_t>(z), data<const scalar_t>(right),
                             data<const scalar_t>(bias), count, dim, shares, sum.stride[0], z.stride[0],
                             right.stride[0]});
  });
}

void right_sum(Stream stream, const Output& sum, const Input& before, const Input& z, const Input& left) {
  const int64_t count = left.dim(), dim = sum.dim();
  Input vector = z;
  vector.size[1] = dim;
  dispatch(z.dtype, access_bytes(vector, sum, before), [&](auto access) {
    using scalar_t = typename decltype(access)::scalar_t;
    using acc_t = acc_of<scalar_t>;
    constexpr int width = decltype(access)::width;
    const TilePlan plan = plan_tiles(dim / width, 1, kColumnLanes);
    launch("bilinear_contract", bilinear_right_sum_kernel<scalar_t, width>, z.rows() * plan.tiles, plan.threads,
           group_bytes(plan.threads, width * sizeof(acc_t)), stream,
           RightSum<scalar_t>{data<acc_t>(sum), data<const acc_t>(before), data<const scalar_t>(z),
                              data<const scalar_t>(left), count, dim, plan.tiles, sum.stride[0], before.stride[0],
                              z.stride[0], left.stride[0]});
  });
}

}  // namespace

void bilinear_outer(Stream stream, Output z, Input left, Input right) {
  Output vector = z;
  vector.size[1] = right.dim();
  dispatch(z.dtype, access_bytes(vector, right), [&](auto access) {
    using scalar_t = typename decltype(access)::scalar_t;
    constexpr int width = decltype(access)::width;
    const TilePlan plan = plan_tiles(right.dim() / width, 1, kColumnLanes);
    const int64_t blocks = z.rows() * plan.tiles, shares = shares_of(ceil_div(left.dim(), 8 * plan.threads.y), blocks);
    launch("bilinear_outer", bilinear_outer_kernel<scalar_t, width>, blocks * shares, plan.threads, 0, stream,
           Outer<scalar_t>{data<scalar_t>(z), data<const scalar_t>(left), data<const scalar_t>(right), left.dim(),
                           right.dim(), plan.tiles, shares, z.stride[0], left.stride[0], right.stride[0]});
  });
}

void bilinear_contract(Stream stream, Output left_sum, Output right_sum, Input before, Input z, Input left, Input right,
                       Input bias) {
  if (left_sum) cuda::left_sum(stream, left_sum, z, right, bias);
  if (right_sum) cuda::right_sum(stream, right_sum, before, z, left);
}

}  // namespace pylayers::cuda
