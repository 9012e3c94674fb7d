// Sums over rows without atomics: over the threads of a block that share a column, then over the parts.
#pragma once

#include "launch.cuh"

namespace pylayers::cuda {

constexpr size_t group_bytes(dim3 threads, size_t bytes_of_a_thread) {
  return threads.y / 2 * threads.x * bytes_of_a_thread;
}

// Adds the sums of all threadIdx.y to those of threadIdx.y = 0, in a fixed tree. Needs group_bytes of shared memory.
template <class acc_t, int width, int vectors>
__device__ void add_groups(Values<acc_t, width> (&sums)[vectors]) {
  extern __shared__ double dynamic_shared[];
  acc_t* shared = reinterpret_cast<acc_t*>(dynamic_shared);
  const int group = threadIdx.y, lanes = blockDim.x;
  for (int half = blockDim.y / 2; half > 0; half /= 2) {
    acc_t* own = shared + (group % half) * lanes + threadIdx.x;
    if (group >= half && group < 2 * half) {
#pragma unroll
      for (int i = 0; i < vectors * width; ++i) own[i * half * lanes] = sums[i / width][i % width];
    }
    __syncthreads();
    if (group < half) {
#pragma unroll
      for (int i = 0; i < vectors * width; ++i) sums[i / width][i % width] += own[i * half * lanes];
    }
    __syncthreads();
  }
}

// sum[group, col] = factor · Σ_p partial[group, p, col]; the sum of group 1 is `second` where that is given. A warp reads 32 columns,
// the 32 warps take every 32nd part; warp 0 adds their sums in four lots, which rounds less than one after the other. Blocks are
// counted along the columns first.
template <class scalar_t>
__global__ void __launch_bounds__(1024) add_parts_kernel(scalar_t* sum, scalar_t* second, const acc_of<scalar_t>* partial, int64_t parts,
                                                         int64_t dim, unsigned tiles, acc_of<scalar_t> factor) {
  using acc_t = acc_of<scalar_t>;
  __shared__ acc_t sums[32][32];
  const int64_t col = int64_t(blockIdx.x % tiles) * 32 + threadIdx.x, group = blockIdx.x / tiles;
  partial += group * parts * dim;
  acc_t own = 0;
  if (col < dim) {
#pragma unroll 8
    for (int64_t part = threadIdx.y; part < parts; part += 32) own += partial[part * dim + col];
  }
  sums[threadIdx.y][threadIdx.x] = own;
  __syncthreads();
  if (threadIdx.y > 0 || col >= dim) return;
  acc_t total[4] = {};
#pragma unroll
  for (int warp = 0; warp < 32; warp += 4) {
#pragma unroll
    for (int i = 0; i < 4; ++i) total[i] += sums[warp + i][threadIdx.x];
  }
  own = (total[0] + total[1]) + (total[2] + total[3]);
  store_one(second && group ? second : sum + group * dim, col, dim, Values<acc_t, 1>{own * factor});
}

template <class scalar_t>
void add_parts(const char* name, Stream stream, scalar_t* sum, scalar_t* second, const acc_of<scalar_t>* partial, int64_t groups,
               int64_t parts, int64_t dim, acc_of<scalar_t> factor) {
  const int64_t tiles = ceil_div(dim, 32);
  launch(name, add_parts_kernel<scalar_t>, groups * tiles, dim3(32, 32), 0, stream, sum, second, partial, parts, dim, unsigned(tiles),
         factor);
}

// Where both sums are given, the first half of partial's rows are the parts of the first.
inline void add_parts(const char* name, Stream stream, const Output& sum, const Output& second, const Output& partial) {
  const Output& first = sum ? sum : second;
  const int sums = sum && second ? 2 : 1;
  dispatch(first.dtype, 1, [&](auto access) {
    using scalar_t = typename decltype(access)::scalar_t;
    add_parts(name, stream, data<scalar_t>(first), data<scalar_t>(second), data<const acc_of<scalar_t>>(partial), sums,
              partial.rows() / sums, first.dim(), acc_of<scalar_t>(1));
  });
}

inline void add_parts(const char* name, Stream stream, const Output& sum, const Output& partial) {
  add_parts(name, stream, sum, {}, partial);
}

}  // namespace pylayers::cuda
