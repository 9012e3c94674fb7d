// Kernels that reduce along rows: blockDim.x threads hold one row, blockDim.y rows are in a block.
#pragma once

#include "launch.cuh"
#include "share.cuh"

namespace pylayers::cuda {

struct RowPlan {
  int vectors = 0;  // that each thread holds; 0: the row is too long to be held
  dim3 threads;
};

// Plans rows of `count` vectors; `options` for RowPlan::vectors ascend. Within a warp, rows share it in powers of two,
// so that shuffles stay inside a row; beyond, a row takes whole warps. Few rows are a matter of latency: as many
// threads as there is work for. With many, a warp a row while one can hold it, then `preferred` vectors a thread
// (several loads in flight, several blocks a multiprocessor), then all that fits.
constexpr int64_t kFewRows = 256;
template <int... options>
RowPlan plan_rows(std::integer_sequence<int, options...>, int64_t count, bool few_rows, int preferred, int max_lanes,
                  int block) {
  const int values[] = {options...}, least = values[0], most = values[sizeof...(options) - 1];
  const auto plan = [block](int vectors, int lanes) {
    return RowPlan{vectors, dim3(lanes, power_of_two_up_to(block / lanes))};
  };
  for (const int vectors : values)
    if (count <= 32 * vectors && (vectors == least || !few_rows))
      return plan(vectors, power_of_two_from(ceil_div(count, vectors)));
  for (const int vectors : values) {
    const int64_t lanes = ceil_div(ceil_div(count, vectors), 32) * 32;
    if (few_rows || vectors == most ? lanes <= max_lanes : vectors >= preferred && lanes <= max_lanes / 2)
      return plan(vectors, int(lanes));
  }
  return {};
}

// The values of the threads of each row combined, and given to all of them. `turn` alternates between 0 and 1 from call to call:
// a slot is then written again only after a barrier that follows its last reading.
template <class acc_t, int count, class Combine>
__device__ Values<acc_t, count> row_combine(Values<acc_t, count> values, acc_t neutral, int turn, Combine combine) {
  const int lanes = blockDim.x;
  for (int offset = min(lanes, 32) / 2; offset > 0; offset /= 2) {
#pragma unroll
    for (int i = 0; i < count; ++i) values[i] = combine(values[i], __shfl_xor_sync(~0u, values[i], offset));
  }
  if (lanes <= 32) return values;
  __shared__ acc_t slots[2][count][32];
  const int warps = lanes / 32, lane = threadIdx.x % 32, first = threadIdx.y * warps;
  if (lane == 0) {
#pragma unroll
    for (int i = 0; i < count; ++i) slots[turn][i][first + threadIdx.x / 32] = values[i];
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < count; ++i) values[i] = lane < warps ? slots[turn][i][first + lane] : neutral;
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
#pragma unroll
    for (int i = 0; i < count; ++i) values[i] = combine(values[i], __shfl_xor_sync(~0u, values[i], offset));
  }
  return values;
}

// Vectors of a row.
struct Slice {
  int first, count;

  // How many columns of it are among the first `columns` of the row.
  __device__ int columns(int64_t columns, int width) const {
    return int(max(min(columns, int64_t(first + count) * width) - int64_t(first) * width, int64_t(0)));
  }
};

// The threads of a block, which hold a row each threadIdx.y.
struct Block {
  __device__ int64_t index() const { return blockIdx.x; }
  __device__ int64_t count() const { return gridDim.x; }
  __device__ bool leads() const { return threadIdx.x == 0; }
  __device__ Slice slice(int vectors) const { return {0, vectors}; }

  template <class acc_t, int count, class Combine>
  __device__ Values<acc_t, count> combine(Values<acc_t, count> values, acc_t neutral, int turn, Combine combine) const {
    return row_combine(values, neutral, turn, combine);
  }
};

struct Sum {
  template <class acc_t>
  __device__ acc_t operator()(acc_t a, acc_t b) const { return a + b; }
};

// `team`: who holds the row, a Block or a Cluster.
template <class acc_t, int count, class Team = Block>
__device__ Values<acc_t, count> row_sums(Values<acc_t, count> values, int turn, Team team = {}) {
  return team.combine(values, acc_t(0), turn, Sum());
}

template <class acc_t, class Team = Block>
__device__ acc_t row_sum(acc_t value, int turn, Team team = {}) {
  return row_sums(Values<acc_t, 1>{value}, turn, team)[0];
}

}  // namespace pylayers::cuda
