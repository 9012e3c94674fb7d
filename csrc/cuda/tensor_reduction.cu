// Rows first ≤ i < last of the packed upper triangle of x ⊗ x, one behind the other: z[row, p(i, j) − p(first, first)] =
// x_i · x_j for j ≥ i. And from the gradient z of such a block dx_i = before_i + Σ_{j ≥ i} z_ij · x_j + Σ_{j ≤ i} z_ji · x_j.
//
// A row of the triangle begins anywhere. Outer: a warp takes a row i and begins where an aligned access would, so that z
// is written once, in whole sectors but at both ends. Contract: threads stand along j and walk down the rows i for the
// sum over the first place; then a warp takes a row i for the sum over the second. z is read twice.

#include "device/launch.cuh"

namespace pylayers::cuda {
namespace {

constexpr int kWarps = 8, kWarp = 32, kColumns = 128;

template <class scalar_t>
struct Triangle {
  acc_of<scalar_t>* dx;
  const acc_of<scalar_t>* before;
  scalar_t* z;
  const scalar_t* x;
  int64_t dim, first, last, dx_stride, before_stride, z_stride, x_stride;
  unsigned tiles;

  // Where row i begins in z.
  __device__ int64_t start(int64_t i) const {
    return (i - first) * dim - (i * (i - 1) - first * (first - 1)) / 2;
  }
};

template <class scalar_t>
__device__ acc_of<scalar_t> value_at(const scalar_t* from) {
  return unpack(*reinterpret_cast<const Vector<scalar_t, 1>*>(from))[0];
}

template <class scalar_t>
__global__ void __launch_bounds__(kWarp * kWarps) tensor_reduction_outer_kernel(const Triangle<scalar_t> args) {
  const int64_t row = blockIdx.x / args.tiles, i = args.first + blockIdx.x % args.tiles * kWarps + threadIdx.y;
  if (i >= args.last) return;
  const scalar_t* const x = args.x + row * args.x_stride;
  const int64_t start = args.start(i), end = start + args.dim - i;
  const auto factor = value_at(x + i);
#pragma unroll 4
  for (int64_t base = start / kWarp * kWarp; base < end; base += kWarp) {  // as often for all lanes
    const int64_t place = base + threadIdx.x;
    if (place < start || place >= end) continue;
    store_one(args.z + row * args.z_stride, place, end,
              Values<acc_of<scalar_t>, 1>{factor * value_at(x + i + place - start)});
  }
}

// dx_j = before_j + Σ_{i ≤ j} z_ij · x_i
template <class scalar_t>
__global__ void __launch_bounds__(kColumns) tensor_reduction_columns_kernel(const Triangle<scalar_t> args) {
  const int64_t row = blockIdx.x / args.tiles, j = blockIdx.x % args.tiles * kColumns + threadIdx.x;
  if (j >= args.dim) return;
  const scalar_t *const x = args.x + row * args.x_stride, *const z = args.z + row * args.z_stride + j;
  const int64_t last = min(args.last, j - threadIdx.x % kWarp + kWarp);  // as often for all lanes
  acc_of<scalar_t> sum = 0;
#pragma unroll 8
  for (int64_t i = args.first; i < last; ++i)
    if (i <= j) sum += value_at(z + args.start(i) - i) * value_at(x + i);
  if (args.before) sum += args.before[row * args.before_stride + j];
  args.dx[row * args.dx_stride + j] = sum;
}

// dx_i += Σ_{j ≥ i} z_ij · x_j
template <class scalar_t>
__global__ void __launch_bounds__(kWarp * kWarps) tensor_reduction_rows_kernel(const Triangle<scalar_t> args) {
  const int64_t row = blockIdx.x / args.tiles, i = args.first + blockIdx.x % args.tiles * kWarps + threadIdx.y;
  if (i >= args.last) return;
  const scalar_t *const x = args.x + row * args.x_stride + i, *const z = args.z + row * args.z_stride;
  const int64_t start = args.start(i), end = start + args.dim - i;
  acc_of<scalar_t> sum = 0;
#pragma unroll 4
  for (int64_t base = start / kWarp * kWarp; base < end; base += kWarp) {
    const int64_t place = base + threadIdx.x;
    if (place >= start && place < end) sum += value_at(z + place) * value_at(x + place - start);
  }
  for (int offset = kWarp / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
  if (threadIdx.x == 0) args.dx[row * args.dx_stride + i] += sum;
}

template <class scalar_t>
Triangle<scalar_t> triangle(const Output& z, const Input& x, int64_t first, int64_t last, int64_t tiles) {
  return {nullptr, nullptr, data<scalar_t>(z), data<const scalar_t>(x), x.dim(), first, last, 0, 0, z.stride[0],
          x.stride[0], unsigned(tiles)};
}

}  // namespace

void tensor_reduction_outer(Stream stream, Output z, Input x, int64_t first, int64_t last) {
  dispatch(z.dtype, 1, [&](auto access) {
    using scalar_t = typename decltype(access)::scalar_t;
    const int64_t tiles = ceil_div(last - first, kWarps);
    launch("tensor_reduction_outer", tensor_reduction_outer_kernel<scalar_t>, z.rows() * tiles, dim3(kWarp, kWarps), 0,
           stream, triangle<scalar_t>(z, x, first, last, tiles));
  });
}

void tensor_reduction_contract(Stream stream, Output dx, Input before, Input z, Input x, int64_t first, int64_t last) {
  dispatch(z.dtype, 1, [&](auto access) {
    using scalar_t = typename decltype(access)::scalar_t;
    using acc_t = acc_of<scalar_t>;
    const int64_t columns = ceil_div(x.dim(), kColumns), rows = ceil_div(last - first, kWarps);
    Triangle<scalar_t> args{data<acc_t>(dx), data<const acc_t>(before), const_cast<scalar_t*>(data<const scalar_t>(z)),
                            data<const scalar_t>(x), x.dim(), first, last, dx.stride[0], before.stride[0],
                            z.stride[0], x.stride[0], unsigned(columns)};
    launch("tensor_reduction_contract", tensor_reduction_columns_kernel<scalar_t>, z.rows() * columns, kColumns, 0,
           stream, args);
    args.tiles = unsigned(rows);
    launch("tensor_reduction_contract", tensor_reduction_rows_kernel<scalar_t>, z.rows() * rows, dim3(kWarp, kWarps), 0,
           stream, args);
  });
}

}  // namespace pylayers::cuda
