// Kernels in which a block takes a tile of columns and a contiguous share of the rows: blockDim.x threads stand along a
// row, blockDim.y take neighbouring rows.
#pragma once

#include "launch.cuh"
#include "share.cuh"

namespace pylayers::cuda {

struct TilePlan {
  int64_t tiles;
  dim3 threads;

  int64_t blocks(int64_t shares) const { return tiles * shares; }
  // Where nobody asks for sums: four rows a thread where there are many, so that what belongs to a column is read once.
  int64_t shares(int64_t rows) const {
    const int64_t once = ceil_div(rows, threads.y);
    return once * tiles > 16 * 132 * 4 ? ceil_div(once, 4) : once;
  }
};

// For rows of `count` vectors, of which a thread takes `vectors` that are blockDim.x apart.
inline TilePlan plan_tiles(int64_t count, int vectors, int max_lanes, int block = 256) {
  const int64_t tiles = ceil_div(count, int64_t(max_lanes) * vectors);
  const int64_t wanted = ceil_div(count, tiles * vectors);
  const int lanes = wanted <= 32 ? power_of_two_from(wanted) : int(ceil_div(wanted, 32) * 32);
  return {tiles, dim3(lanes, power_of_two_up_to(block / lanes))};
}

struct Tile {
  int64_t index;      // this thread's first vector in the row
  int64_t row, last;  // its first row; the end of the block's share
  int64_t share;
};

__device__ inline Tile this_tile(int64_t rows, int64_t tiles, int vectors) {
  const unsigned share = blockIdx.x / unsigned(tiles), tile = blockIdx.x % unsigned(tiles);
  const Share own = share_of(rows, gridDim.x / unsigned(tiles), share);
  return {int64_t(tile) * vectors * blockDim.x + threadIdx.x, own.first + threadIdx.y, own.last, share};
}

// What a thread loads before it works on it: enough bytes in flight also where an access is narrow.
template <class scalar_t, int width>
inline constexpr int vectors_at_once = width * sizeof(scalar_t) >= 8 ? 2 : 4;
template <class scalar_t, int width>
inline constexpr int rows_at_once = vectors_at_once<scalar_t, width>;

}  // namespace pylayers::cuda
