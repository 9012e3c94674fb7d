// Rows that are held by the blocks of a cluster, a slice by each: from compute capability 9.0 on, blocks that run at the same
// time write to each other's shared memory. For others, kernels are compiled without a body and never launched.
#pragma once

#include "rows.cuh"

namespace pylayers::cuda {

constexpr int kClusterThreads = 512, kMostBlocks = 16;

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define PYLAYERS_CLUSTERS

// What the code for rows asks of the threads that hold one; device/rows.cuh has that of a block.
class Cluster {
 public:
  __device__ Cluster() : rank_(this_rank()), size_(this_size()) { sync(); }  // none writes to a block that has not begun
  __device__ int64_t index() const { return blockIdx.x / size_; }
  __device__ int64_t count() const { return gridDim.x / size_; }
  __device__ bool leads() const { return rank_ == 0 && threadIdx.x == 0; }

  // Of `count` vectors those of this block: whole warps' accesses, and contiguous.
  __device__ Slice slice(int count) const {
    const int each = (count + 32 * size_ - 1) / (32 * size_) * 32, first = each * rank_;
    return {first, max(min(each, count - first), 0)};
  }

  // As row_combine, over the blocks in the order of their rank.
  template <class acc_t, int count, class Combine>
  __device__ Values<acc_t, count> combine(Values<acc_t, count> values, acc_t neutral, int turn, Combine combine) const {
    __shared__ acc_t slots[2][kMostBlocks][count];
    values = row_combine(values, neutral, turn, combine);
    const int to = threadIdx.x;
    acc_t* const own = in_block(slots[turn][rank_], min(to, size_ - 1));  // of blocks that there are, else its result is undefined
    if (to < size_) {
#pragma unroll
      for (int i = 0; i < count; ++i) own[i] = values[i];
    }
    sync();
#pragma unroll
    for (int i = 0; i < count; ++i) {
      values[i] = slots[turn][0][i];
      for (int rank = 1; rank < size_; ++rank) values[i] = combine(values[i], slots[turn][rank][i]);
    }
    return values;
  }

 private:
  int rank_, size_;

  __device__ static int this_rank() { return __clusterRelativeBlockRank(); }
  __device__ static int this_size() { return __clusterSizeInBlocks(); }
  __device__ static void sync() { __cluster_barrier_arrive(), __cluster_barrier_wait(); }
  template <class T>
  __device__ static T* in_block(T* shared, int rank) {  // the same place there
    return static_cast<T*>(__cluster_map_shared_rank(shared, rank));
  }
};

#endif

inline cudaLaunchConfig_t cluster_launch(int64_t clusters, int size, Stream stream, cudaLaunchAttribute* attribute) {
  attribute->id = cudaLaunchAttributeClusterDimension;
  attribute->val.clusterDim = {unsigned(size), 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(unsigned(clusters * size));
  config.blockDim = dim3(kClusterThreads);
  config.stream = stream;
  config.attrs = attribute;
  config.numAttrs = 1;
  return config;
}

// The largest cluster that a kernel can be launched with; 0: it was not compiled for GPUs that have clusters.
inline int most_of_cluster(const char* name, const void* kernel) {
  const auto check = [name](cudaError_t status) {
    if (status != cudaSuccess) fail(name, cudaGetErrorString(cudaGetLastError()));
  };
  cudaFuncAttributes known;
  check(cudaFuncGetAttributes(&known, kernel));
  if (known.ptxVersion < 90) return 0;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
  cudaLaunchAttribute attribute;
  const cudaLaunchConfig_t config = cluster_launch(1, 1, {}, &attribute);
  int most = 0;
  check(cudaOccupancyMaxPotentialClusterSize(&most, kernel, &config));
  return std::min(most, kMostBlocks);
}

// Launches a kernel of rows of `count` vectors, `vectors` of which a thread can hold, if some cluster can hold such a row.
template <class Args>
bool launch_clusters(const char* name, void (*kernel)(Args), int64_t clusters, int64_t count, int vectors, Stream stream,
                     const Args& args) {
  const int64_t blocks = ceil_div(count, kClusterThreads * vectors);
  if (blocks > kMostBlocks || blocks > most_of_cluster(name, reinterpret_cast<const void*>(kernel))) return false;
  const int size = power_of_two_from(blocks);
  cudaLaunchAttribute attribute;
  const cudaLaunchConfig_t config = cluster_launch(std::min<int64_t>(clusters, INT_MAX / size), size, stream, &attribute);
  const cudaError_t status = cudaLaunchKernelEx(&config, kernel, args);
  if (status != cudaSuccess) fail(name, cudaGetErrorString(cudaGetLastError()));
  return true;
}

}  // namespace pylayers::cuda
