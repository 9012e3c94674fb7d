// y_i = 0 with probability p_zero, else ± uniform in [low, high), from the random words of counter i alone.
//
// A thread draws the numbers of one vector and stores it. Nothing is read; each number is written once.

#include "device/launch.cuh"
#include "device/philox.cuh"

namespace pylayers::cuda {
namespace {

constexpr int kThreads = 256;

template <class scalar_t>
struct Draw {
  scalar_t* y;
  int64_t count;
  uint64_t seed;
  acc_of<scalar_t> low, span;
  uint32_t zero_below;
};

// low + u · span in two roundings: the intrinsics are never fused.
__device__ inline float draw(uint4 words, float low, float span) {
  return __fadd_rn(low, __fmul_rn(float(words.y >> 8) * 0x1p-24f, span));
}
__device__ inline double draw(uint4 words, double low, double span) {
  const uint64_t bits = uint64_t(words.y) << 21 | words.z >> 11;
  return __dadd_rn(low, __dmul_rn(double(bits) * 0x1p-53, span));
}

template <class scalar_t, int width>
__global__ void __launch_bounds__(kThreads) two_sided_uniform_kernel(const Draw<scalar_t> args) {
  using acc_t = acc_of<scalar_t>;
  const int64_t index = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  Values<acc_t, width> y;
#pragma unroll
  for (int i = 0; i < width; ++i) {
    const uint4 words = philox(uint64_t(index * width + i), args.seed);
    const acc_t number = draw(words, args.low, args.span);
    y[i] = words.x >> 1 < args.zero_below ? acc_t(0) : words.x & 1 ? -number : number;
  }
  store_one(args.y, index, args.count / width, y);
}

}  // namespace

void two_sided_uniform(Stream stream, Output y, int64_t seed, double low, double high, double p_zero) {
  dispatch(y.dtype, access_bytes(y), [&](auto access) {
    using scalar_t = typename decltype(access)::scalar_t;
    using acc_t = acc_of<scalar_t>;
    constexpr int width = decltype(access)::width;
    launch("two_sided_uniform", two_sided_uniform_kernel<scalar_t, width>, ceil_div(y.dim() / width, kThreads),
           dim3(kThreads), 0, stream,
           Draw<scalar_t>{data<scalar_t>(y), y.dim(), uint64_t(seed), acc_t(low), acc_t(high - low), philox_threshold(p_zero)});
  });
}

}  // namespace pylayers::cuda
