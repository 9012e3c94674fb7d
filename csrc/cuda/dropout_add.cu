// y = residual + (x · scale where the mask keeps x, else 0), and dx = grad · scale where the same mask, drawn again, keeps it, else 0.
//
// Elementwise: 3 numbers move per element forward, 2 backward, and no mask. A thread takes groups of at least four elements, those of
// one counter, and of 16 bytes where the matrices lie so. Matrices whose rows follow each other without a gap are one flat row;
// otherwise a block takes a tile of columns and a share of the rows. The key is an argument, or in memory: there a recorded graph
// of launches finds another one each time that it is run.

#include "device/launch.cuh"
#include "device/philox.cuh"
#include "device/tiles.cuh"

namespace pylayers::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kGroups = 2;  // that a thread loads before it works on them

template <int width>
inline constexpr int group_of = width < 4 ? 4 : width;

__device__ inline float product(float a, float b) { return __fmul_rn(a, b); }
__device__ inline double product(double a, double b) { return __dmul_rn(a, b); }

template <class acc_t>
struct Mask {
  const int64_t* seed;
  uint64_t key;
  uint32_t drop_below;
  acc_t scale;

  __device__ uint64_t key_now() const { return seed ? uint64_t(*seed) : key; }
  // Never fused with a sum: every backend gives the same bits.
  __device__ acc_t apply(acc_t x, uint32_t word) const {
    return word >> 1 < drop_below ? acc_t(0) : product(x, scale);
  }
};

template <class scalar_t>
struct Forward {
  scalar_t* y;
  const scalar_t *x, *residual;
  int64_t rows, dim, tiles, x_stride, residual_stride;
  Mask<acc_of<scalar_t>> mask;
};

template <class scalar_t>
struct Backward {
  scalar_t* dx;
  const scalar_t* grad;
  int64_t rows, dim, tiles, grad_stride;
  Mask<acc_of<scalar_t>> mask;
};

// The random words of a group of elements from `first` on, a multiple of 4.
template <int count>
struct Words {
  uint32_t word[count];
  __device__ Words(int64_t first, uint64_t key) {
#pragma unroll
    for (int i = 0; i < count; i += 4) {
      const uint4 four = philox(uint64_t(first + i) / 4, key);
      word[i] = four.x, word[i + 1] = four.y, word[i + 2] = four.z, word[i + 3] = four.w;
    }
  }
};

// The vectors of a group lie side by side: one of whole 16 bytes, or several narrow ones.
template <class scalar_t, int width, int vectors>
__device__ void load_group(Vector<scalar_t, width> (&out)[vectors], const scalar_t* row, int64_t group, int64_t count) {
#pragma unroll
  for (int v = 0; v < vectors; ++v) out[v] = load_one<width>(row, group * vectors + v, count);
}

template <class scalar_t, int width>
__global__ void __launch_bounds__(kThreads) dropout_add_forward_kernel(const Forward<scalar_t> args) {
  constexpr int vectors = group_of<width> / width;
  const int64_t count = args.dim / width;
  const Tile tile = this_tile(args.rows, args.tiles, kGroups);
  const uint64_t key = args.mask.key_now();
  for (int64_t row = tile.row; row < tile.last; row += blockDim.y) {
    Vector<scalar_t, width> x[kGroups][vectors], residual[kGroups][vectors];
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      load_group(x[g], args.x + row * args.x_stride, tile.index + g * blockDim.x, count);
      load_group(residual[g], args.residual + row * args.residual_stride, tile.index + g * blockDim.x, count);
    }
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      const int64_t group = tile.index + g * blockDim.x;
      const Words<group_of<width>> words(row * args.dim + group * group_of<width>, key);
#pragma unroll
      for (int v = 0; v < vectors; ++v) {
        const auto values = unpack(x[g][v]);
        auto y = unpack(residual[g][v]);
#pragma unroll
        for (int i = 0; i < width; ++i) y[i] += args.mask.apply(values[i], words.word[v * width + i]);
        store_one(args.y + row * args.dim, group * vectors + v, count, y);
      }
    }
  }
}

template <class scalar_t, int width>
__global__ void __launch_bounds__(kThreads) dropout_add_backward_kernel(const Backward<scalar_t> args) {
  constexpr int vectors = group_of<width> / width;
  const int64_t count = args.dim / width;
  const Tile tile = this_tile(args.rows, args.tiles, kGroups);
  const uint64_t key = args.mask.key_now();
  for (int64_t row = tile.row; row < tile.last; row += blockDim.y) {
    Vector<scalar_t, width> grad[kGroups][vectors];
#pragma unroll
    for (int g = 0; g < kGroups; ++g)
      load_group(grad[g], args.grad + row * args.grad_stride, tile.index + g * blockDim.x, count);
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      const int64_t group = tile.index + g * blockDim.x;
      const Words<group_of<width>> words(row * args.dim + group * group_of<width>, key);
#pragma unroll
      for (int v = 0; v < vectors; ++v) {
        auto dx = unpack(grad[g][v]);
#pragma unroll
        for (int i = 0; i < width; ++i) dx[i] = args.mask.apply(dx[i], words.word[v * width + i]);
        store_one(args.dx + row * args.dim, group * vectors + v, count, dx);
      }
    }
  }
}

template <class scalar_t>
Mask<acc_of<scalar_t>> mask_of(Input seed, int64_t key, double p) {
  return {data<const int64_t>(seed), uint64_t(key), philox_threshold(p), acc_of<scalar_t>(dropout_scale(p))};
}

template <int width>
TilePlan plan(int64_t dim) {
  return plan_tiles(ceil_div(dim, group_of<width>), kGroups, kThreads);
}

}  // namespace

void dropout_add_forward(Stream stream, Output y, Input x, Input residual, Input seed, int64_t key, double p) {
  flatten(y, x, residual);
  dispatch(y.dtype, access_bytes(y, x, residual), [&](auto access) {
    using scalar_t = typename decltype(access)::scalar_t;
    constexpr int width = decltype(access)::width;
    const TilePlan cut = plan<width>(y.dim());
    launch("dropout_add_forward", dropout_add_forward_kernel<scalar_t, width>, cut.blocks(cut.shares(y.rows())), cut.threads, 0, stream,
           Forward<scalar_t>{data<scalar_t>(y), data<const scalar_t>(x), data<const scalar_t>(residual), y.rows(), y.dim(), cut.tiles,
                             x.stride[0], residual.stride[0], mask_of<scalar_t>(seed, key, p)});
  });
}

void dropout_add_backward(Stream stream, Output dx, Input grad, Input seed, int64_t key, double p) {
  flatten(dx, grad);
  dispatch(dx.dtype, access_bytes(dx, grad), [&](auto access) {
    using scalar_t = typename decltype(access)::scalar_t;
    constexpr int width = decltype(access)::width;
    const TilePlan cut = plan<width>(dx.dim());
    launch("dropout_add_backward", dropout_add_backward_kernel<scalar_t, width>, cut.blocks(cut.shares(dx.rows())), cut.threads, 0,
           stream,
           Backward<scalar_t>{data<scalar_t>(dx), data<const scalar_t>(grad), dx.rows(), dx.dim(), cut.tiles, grad.stride[0],
                              mask_of<scalar_t>(seed, key, p)});
  });
}

}  // namespace pylayers::cuda
