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

// The sum over the threads of each row, given to all of them. `turn` alternates between 0 and 1 from call to call: a
// slot is then written again only after a barrier that follows its last reading.
template <class acc_t>
__device__ acc_t row_sum(acc_t value, int turn) {
  const int lanes = blockDim.x;
  for (int offset = min(lanes, 32) / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(~0u, value, offset);
  if (lanes <= 32) return value;
  __shared__ acc_t slots[2][32];
  const int warps = lanes / 32, lane = threadIdx.x % 32;
  acc_t* slot = slots[turn] + threadIdx.y * warps;
  if (lane == 0) slot[threadIdx.x / 32] = value;
  __syncthreads();
  value = lane < warps ? slot[lane] : acc_t(0);
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(~0u, value, offset);
  return value;
}

}  // namespace pylayers::cuda
