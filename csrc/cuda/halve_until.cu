// y = x · 2^−k with the smallest k ≥ 0 for which Σ|x| · 2^−k ≤ threshold, and its gradient grad · 2^−k.
//
// Three launches, none of which the host waits for: blocks sum their shares of x, one block adds the shares in order and finds
// k, and the last kernel multiplies. x is read twice, the second time out of the L2 cache if it fits; y is written once.

#include <cmath>

#include "device/launch.cuh"
#include "device/rows.cuh"
#include "device/share.cuh"
#include "device/tiles.cuh"

namespace pylayers::cuda {
namespace {

constexpr int kThreads = 256;
constexpr auto kForward = "halve_until_forward", kBackward = "halve_until_backward";

// So far the second sum is scaled down that it cannot overflow, and the greatest power of two whose inverse is normal.
template <class acc_t>
__device__ constexpr int kShift = sizeof(acc_t) == 8 ? 512 : 64;
template <class acc_t>
__device__ constexpr int kMost = sizeof(acc_t) == 8 ? 1022 : 126;

__device__ inline float power_of_two(int exponent, float) { return __int_as_float((exponent + 127) << 23); }
__device__ inline double power_of_two(int exponent, double) { return __hiloint2double((exponent + 1023) << 20, 0); }

template <class scalar_t, int width>
__global__ void __launch_bounds__(kThreads) halve_until_sums(acc_of<scalar_t>* partial, const scalar_t* x, int64_t dim) {
  using acc_t = acc_of<scalar_t>;
  constexpr int vectors = vectors_at_once<scalar_t, width>;
  const acc_t down = power_of_two(-kShift<acc_t>, acc_t());
  const Share own = share_of(dim / width, gridDim.x, blockIdx.x);
  acc_t sum = 0, scaled = 0;
  for (int64_t index = own.first + threadIdx.x; index < own.last; index += vectors * kThreads) {
    Vector<scalar_t, width> held[vectors];
    load(held, x, index, own.last);
#pragma unroll
    for (int v = 0; v < vectors; ++v) {
      const auto values = unpack(held[v]);
#pragma unroll
      for (int i = 0; i < width; ++i) {
        const acc_t size = values[i] < 0 ? -values[i] : values[i];
        sum += size;
        scaled += size * down;
      }
    }
  }
  sum = row_sum(sum, 0);
  scaled = row_sum(scaled, 1);
  if (threadIdx.x > 0) return;
  partial[2 * blockIdx.x] = sum;
  partial[2 * blockIdx.x + 1] = scaled;
}

// The smallest k ≥ 0 with sum · 2^(shift − k) ≤ threshold = mantissa · 2^limit: mantissas are in [½, 1).
template <class acc_t>
__device__ int halvings(acc_t sum, int shift, acc_t mantissa, int limit) {
  int exponent = 0;
  const bool more = frexp(sum, &exponent) > mantissa;
  return sum == 0 ? 0 : max(exponent + shift - limit + more, 0);
}

template <class acc_t>
__global__ void __launch_bounds__(kThreads)
    halve_until_exponent(acc_t* exponent, const acc_t* partial, int64_t parts, acc_t mantissa, int limit) {
  acc_t sum = 0, scaled = 0;
  for (int64_t part = threadIdx.x; part < parts; part += kThreads) {
    sum += partial[2 * part];
    scaled += partial[2 * part + 1];
  }
  sum = row_sum(sum, 0);
  scaled = row_sum(scaled, 1);
  if (threadIdx.x > 0) return;
  // Numbers that are finite may have a sum that is not.
  *exponent = !isfinite(scaled) ? 0 : isfinite(sum) ? halvings(sum, 0, mantissa, limit)
                                                    : halvings(scaled, kShift<acc_t>, mantissa, limit);
}

// In factors that do not underflow, the last one last: only the last product may be subnormal, and is rounded once.
template <class scalar_t, int width>
__global__ void __launch_bounds__(kThreads)
    halve_until_scale(scalar_t* y, const scalar_t* x, const acc_of<scalar_t>* exponent, int64_t dim, int64_t tiles) {
  using acc_t = acc_of<scalar_t>;
  constexpr int vectors = vectors_at_once<scalar_t, width>, most = kMost<acc_t>;
  const int64_t count = dim / width;
  const Tile tile = this_tile(1, tiles, vectors);
  Vector<scalar_t, width> held[vectors];
  load(held, x, tile.index, count);
  const int k = int(*exponent);
  const auto factor = [k](int i) { return power_of_two(-min(max(k - i * most, 0), most), acc_t()); };
#pragma unroll
  for (int v = 0; v < vectors; ++v) {
    auto values = unpack(held[v]);
#pragma unroll
    for (int i = 0; i < width; ++i) values[i] = values[i] * factor(2) * factor(1) * factor(0);
    store_one(y, tile.index + v * blockDim.x, count, values);
  }
}

template <class Access>
void scale(Access, const char* name, Stream stream, const Output& y, const Input& x, const void* exponent) {
  using scalar_t = typename Access::scalar_t;
  constexpr int width = Access::width;
  const TilePlan plan = plan_tiles(y.dim() / width, vectors_at_once<scalar_t, width>, kThreads);
  launch(name, halve_until_scale<scalar_t, width>, plan.blocks(1), dim3(plan.threads.x), 0, stream, data<scalar_t>(y),
         data<const scalar_t>(x), static_cast<const acc_of<scalar_t>*>(exponent), y.dim(), plan.tiles);
}

}  // namespace

void halve_until_forward(Stream stream, Output y, Output exponent, Output partial, Input x, double threshold) {
  dispatch(y.dtype, access_bytes(y, x), [&](auto access) {
    using scalar_t = typename decltype(access)::scalar_t;
    using acc_t = acc_of<scalar_t>;
    int limit = 0;
    const acc_t mantissa = acc_t(std::frexp(threshold, &limit));
    launch(kForward, halve_until_sums<scalar_t, decltype(access)::width>, partial.rows(), kThreads, 0, stream, data<acc_t>(partial),
           data<const scalar_t>(x), x.dim());
    launch(kForward, halve_until_exponent<acc_t>, 1, kThreads, 0, stream, data<acc_t>(exponent), data<const acc_t>(partial),
           partial.rows(), mantissa, limit);
    scale(access, kForward, stream, y, x, exponent.data);
  });
}

void halve_until_backward(Stream stream, Output dx, Input grad, Input exponent) {
  dispatch(dx.dtype, access_bytes(dx, grad),
           [&](auto access) { scale(access, kBackward, stream, dx, grad, exponent.data); });
}

}  // namespace pylayers::cuda
