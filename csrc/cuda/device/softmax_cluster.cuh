// Softmax of rows that are too long for a block, held by a cluster of up to 16: up to 512 KiB a row, of float32 1 MiB.
#pragma once

#include "cluster.cuh"
#include "softmax_held.cuh"

namespace pylayers::cuda {

template <class scalar_t, int width, int vectors>
__global__ void __launch_bounds__(kClusterThreads) softmax_forward_cluster(const SoftmaxForward<scalar_t> args) {
#ifdef PYLAYERS_CLUSTERS
  softmax_forward_held<scalar_t, width, vectors>(args, Cluster());
#endif
}

template <class scalar_t, int width, int vectors>
__global__ void __launch_bounds__(kClusterThreads) softmax_backward_cluster(const SoftmaxBackward<scalar_t> args) {
#ifdef PYLAYERS_CLUSTERS
  softmax_backward_held<scalar_t, width, vectors>(args, Cluster());
#endif
}

template <int vectors, class scalar_t, int width>
auto* cluster_kernel(Access<scalar_t, width>, const SoftmaxForward<scalar_t>&) {
  return softmax_forward_cluster<scalar_t, width, vectors>;
}

template <int vectors, class scalar_t, int width>
auto* cluster_kernel(Access<scalar_t, width>, const SoftmaxBackward<scalar_t>&) {
  return softmax_backward_cluster<scalar_t, width, vectors>;
}

// False: no cluster can hold such a row.
template <class Access, class Args>
bool launch_softmax_cluster(const char* name, Access access, Stream stream, const Args& args) {
  const auto with = [&](auto vectors) {
    return launch_clusters(name, cluster_kernel<vectors>(access, args), args.rows, args.dim / Access::width, vectors, stream, args);
  };
  if constexpr (Access::bytes < 16) return false;
  else if constexpr (Access::width == 4) return with(std::integral_constant<int, 4>{}) || with(std::integral_constant<int, 8>{});
  else return with(std::integral_constant<int, 4>{});
}

}  // namespace pylayers::cuda
