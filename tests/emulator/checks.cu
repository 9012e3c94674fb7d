// Kernels with a fault, each beside one without: what the emulator must catch and what it must let pass.
// Every kernel runs with the blocks of 64 threads and the 128 floats of x and y that test_checks.py gives it.
#include <cooperative_groups.h>
#include <cuda_pipeline_primitives.h>

extern "C" {

__global__ void copies(float* y, const float* x) { y[blockIdx.x * 64 + threadIdx.x] = x[blockIdx.x * 64 + threadIdx.x]; }
__global__ void reads_behind(float* y, const float* x) { y[blockIdx.x * 64 + threadIdx.x] = x[blockIdx.x * 64 + threadIdx.x + 1]; }
__global__ void writes_behind(float* y, const float* x) { y[blockIdx.x * 64 + threadIdx.x + 1] = x[blockIdx.x * 64 + threadIdx.x]; }
__global__ void writes_input(float* y, float* x) { y[blockIdx.x * 64 + threadIdx.x] = x[blockIdx.x * 64 + threadIdx.x]++; }
__global__ void misaligned(float* y, const float* x) {
  reinterpret_cast<float2*>(y + 1)[threadIdx.x % 16] = make_float2(x[threadIdx.x], 1);
}
__global__ void reads_output(float* y, const float* x) { y[blockIdx.x * 64 + threadIdx.x] += x[threadIdx.x]; }

__global__ void shared_unwritten(float* y, const float* x) {
  __shared__ float shared[64];
  if (threadIdx.x < 63) shared[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  y[blockIdx.x * 64 + threadIdx.x] = shared[threadIdx.x];
}
__global__ void shared_behind(float* y, const float* x) {
  __shared__ float shared[64];
  shared[threadIdx.x + 1] = x[threadIdx.x];
  __syncthreads();
  y[blockIdx.x * 64 + threadIdx.x] = shared[threadIdx.x + 1];
}

__global__ void reverses(float* y, const float* x) {
  __shared__ float shared[64];
  shared[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  y[blockIdx.x * 64 + threadIdx.x] = shared[63 - threadIdx.x];
}
__global__ void reverses_without_barrier(float* y, const float* x) {
  __shared__ volatile float shared[64];
  shared[threadIdx.x] = 0;
  __syncthreads();
  shared[threadIdx.x] = x[threadIdx.x];
  y[blockIdx.x * 64 + threadIdx.x] = shared[63 - threadIdx.x];
}
__global__ void overwrites_what_others_read(float* y, const float* x) {
  __shared__ volatile float shared[64];
  shared[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  const float value = shared[63 - threadIdx.x];
  shared[threadIdx.x] = 0;
  y[blockIdx.x * 64 + threadIdx.x] = value;
}
__global__ void writes_same_place(float* y, const float* x) {
  __shared__ volatile float shared[1];
  shared[0] = x[threadIdx.x / 32];
  __syncthreads();
  y[blockIdx.x * 64 + threadIdx.x] = shared[0];
}

__global__ void swaps_in_warp(float* y, const float* x) {
  __shared__ volatile float shared[64];
  shared[threadIdx.x] = x[threadIdx.x];
  __syncwarp();
  y[blockIdx.x * 64 + threadIdx.x] = shared[threadIdx.x ^ 1];
}
__global__ void swaps_in_warp_unsynchronised(float* y, const float* x) {
  __shared__ volatile float shared[64];
  shared[threadIdx.x] = 0;
  __syncwarp();
  shared[threadIdx.x] = x[threadIdx.x];
  y[blockIdx.x * 64 + threadIdx.x] = shared[threadIdx.x ^ 1];
}
__global__ void reduces_in_warp_unsynchronised(float* y, const float* x) {
  __shared__ volatile float shared[64];
  shared[threadIdx.x] = x[threadIdx.x];
  __syncwarp();
  if (threadIdx.x < 16) shared[threadIdx.x] = shared[threadIdx.x] + shared[threadIdx.x + 1];
  __syncwarp();
  y[blockIdx.x * 64 + threadIdx.x] = shared[threadIdx.x];
}

__global__ void blocks_overlap(float* y, const float* x) { y[threadIdx.x] = x[blockIdx.x * 64 + threadIdx.x]; }
__global__ void reads_other_block(float* y, const float* x) {
  y[blockIdx.x * 64 + threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  if (blockIdx.x == 1) y[64 + threadIdx.x] = y[threadIdx.x];
}
__global__ void last_block_finishes(float* y, const float* x, unsigned* count) {
  __shared__ bool last;
  y[blockIdx.x * 64 + threadIdx.x] = x[blockIdx.x * 64 + threadIdx.x];
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) last = atomicAdd(count, 1) == gridDim.x - 1;
  __syncthreads();
  if (last) y[threadIdx.x] += y[64 + threadIdx.x];
}
__global__ void adds_with_float_atomics(float* y, const float* x) {
  atomicAdd(y, x[blockIdx.x * 64 + threadIdx.x]);
}

__global__ void barrier_in_branch(float* y, const float* x) {
  if (threadIdx.x < 32) __syncthreads();
  y[blockIdx.x * 64 + threadIdx.x] = x[threadIdx.x];
}
__global__ void barrier_for_half_a_warp(float* y, const float* x) {
  if (threadIdx.x % 32 < 16) __syncthreads();
  y[blockIdx.x * 64 + threadIdx.x] = x[threadIdx.x];
}
__global__ void barrier_in_uniform_branch(float* y, const float* x) {
  if (blockIdx.x == 0) __syncthreads();
  y[blockIdx.x * 64 + threadIdx.x] = x[threadIdx.x];
}
__global__ void named_barrier(float* y, const float* x) {
  __shared__ volatile float shared[32];
  if (threadIdx.x >= 32) shared[threadIdx.x - 32] = x[threadIdx.x];
  asm volatile("bar.sync 1, 64;" ::: "memory");
  y[blockIdx.x * 64 + threadIdx.x] = shared[threadIdx.x % 32];
}

__global__ void shuffles(float* y, const float* x) {
  y[blockIdx.x * 64 + threadIdx.x] = __shfl_xor_sync(~0u, x[threadIdx.x], 16);
}
__global__ void shuffle_names_missing_lanes(float* y, const float* x) {
  float value = x[threadIdx.x];
  if (threadIdx.x % 32 < 16) value += __shfl_xor_sync(~0u, value, 8);
  y[blockIdx.x * 64 + threadIdx.x] = value;
}
__global__ void shuffle_reads_missing_lane(float* y, const float* x) {
  float value = x[threadIdx.x];
  if (threadIdx.x % 32 < 16) value += __shfl_xor_sync(0xffff, value, 16);
  y[blockIdx.x * 64 + threadIdx.x] = value;
}
__global__ void votes_outside_mask(float* y, const float* x) {
  y[blockIdx.x * 64 + threadIdx.x] = float(__ballot_sync(0xffff, x[threadIdx.x] > 0));
}

__global__ void copies_async(float* y, const float* x) {
  __shared__ __align__(16) float shared[64];
  if (threadIdx.x < 16) __pipeline_memcpy_async(shared + 4 * threadIdx.x, x + 4 * threadIdx.x, 16);
  __pipeline_commit();
  __pipeline_wait_prior(0);
  __syncthreads();
  y[blockIdx.x * 64 + threadIdx.x] = shared[threadIdx.x];
}
__global__ void copies_async_unwaited(float* y, const float* x) {
  __shared__ __align__(16) float shared[64];
  if (threadIdx.x < 16) __pipeline_memcpy_async(shared + 4 * threadIdx.x, x + 4 * threadIdx.x, 16);
  __pipeline_commit();
  __pipeline_wait_prior(1);
  __syncthreads();
  y[blockIdx.x * 64 + threadIdx.x] = shared[threadIdx.x];
}
__global__ void copies_async_without_barrier(float* y, const float* x) {
  __shared__ __align__(16) float shared[64];
  if (threadIdx.x < 16) __pipeline_memcpy_async(shared + 4 * threadIdx.x, x + 4 * threadIdx.x, 16);
  __pipeline_commit();
  __pipeline_wait_prior(0);
  y[blockIdx.x * 64 + threadIdx.x] = *(volatile float*)(shared + (63 - threadIdx.x));
}

__global__ void never_ends(float* y, const float* x) {
  while (*(volatile const float*)x != 12345.f) {}
  y[threadIdx.x] = 1;
}
__global__ void asserts(float* y, const float* x) {
  if (!(x[threadIdx.x] < 100)) __trap();
  if (threadIdx.x == 5) __trap();
  y[blockIdx.x * 64 + threadIdx.x] = x[threadIdx.x];
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
__global__ void __cluster_dims__(2) cluster_swaps(float* y, const float* x) {
  __shared__ float shared[64];
  auto cluster = cooperative_groups::this_cluster();
  shared[threadIdx.x] = x[blockIdx.x * 64 + threadIdx.x];
  cluster.sync();
  y[blockIdx.x * 64 + threadIdx.x] = *cluster.map_shared_rank(shared + threadIdx.x, cluster.block_rank() ^ 1);
  cluster.sync();
}
__global__ void __cluster_dims__(2) cluster_swaps_without_barrier(float* y, const float* x) {
  __shared__ float shared[64];
  auto cluster = cooperative_groups::this_cluster();
  shared[threadIdx.x] = x[blockIdx.x * 64 + threadIdx.x];
  cluster.sync();
  const float own = shared[threadIdx.x];
  *cluster.map_shared_rank(shared + threadIdx.x, cluster.block_rank() ^ 1) = own;
  cluster.sync();
  y[blockIdx.x * 64 + threadIdx.x] = shared[threadIdx.x];
}
__global__ void __cluster_dims__(2) cluster_writes_before_all_begin(float* y, const float* x) {
  __shared__ float shared[64];
  auto cluster = cooperative_groups::this_cluster();
  *cluster.map_shared_rank(shared + threadIdx.x, cluster.block_rank() ^ 1) = x[blockIdx.x * 64 + threadIdx.x];
  cluster.sync();
  y[blockIdx.x * 64 + threadIdx.x] = shared[threadIdx.x];
}
#endif

}
