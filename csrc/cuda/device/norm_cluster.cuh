// Normalisations of rows that are too long for a block, held by a cluster of up to 16: forward up to 512 KiB a row, backward up to
// 512 KiB of x (256 or 128 where there is more to hold than of the simplest kind), so that every matrix is still read once.
#pragma once

#include "cluster.cuh"
#include "norm.cuh"
#include "norm_backward.cuh"

namespace pylayers::cuda {

template <class Norm, int width, int vectors>
__global__ void __launch_bounds__(kClusterThreads, 1) norm_forward_cluster(const ForwardArgs<Norm> args) {
#ifdef PYLAYERS_CLUSTERS
  norm_forward_held<Norm, width, vectors>(args, Cluster());
#endif
}

template <class Norm, int width, int vectors>
__global__ void __launch_bounds__(kClusterThreads, 1) norm_backward_cluster(const BackwardArgs<Norm> args) {
#ifdef PYLAYERS_CLUSTERS
  norm_backward_held<Norm, width, vectors>(args, Cluster());
#endif
}

// False: no cluster can hold such a row, or none of its kind that would pay.
template <class Norm, class Access>
bool launch_norm_forward_cluster(const char* name, Access, Stream stream, const ForwardArgs<Norm>& args) {
  constexpr int width = Access::width, vectors = 4;
  if constexpr (Access::bytes < 16) return false;
  else return launch_clusters(name, norm_forward_cluster<Norm, width, vectors>, args.rows, args.dim / width, vectors, stream, args);
}

// `shares` of the rows, each the work of one cluster.
template <class Norm, class Access>
bool launch_norm_backward_cluster(const char* name, Access, Stream stream, const BackwardArgs<Norm>& args, int64_t shares) {
  constexpr int width = Access::width, vectors = 4 >> (Norm::centred + Norm::adds);
  if constexpr (Access::bytes < 16) return false;
  else return launch_clusters(name, norm_backward_cluster<Norm, width, vectors>, shares, args.dim / width, vectors, stream, args);
}

}  // namespace pylayers::cuda
