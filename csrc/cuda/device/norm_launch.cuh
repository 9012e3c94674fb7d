// How the normalisations of rows are launched: rows held by a block, by a cluster, or read twice.
#pragma once

#include "norm_cluster.cuh"

namespace pylayers::cuda {

// How many vectors a thread may hold of a row: what fits the registers without spilling.
template <class Access, int... full>
using Vectors = std::conditional_t<Access::bytes == 16, std::integer_sequence<int, full...>,
                                   std::integer_sequence<int, 2, Access::bytes == 8 ? 4 : 8>>;

template <class Norm, class Access>
void launch_norm_forward(const char* name, Access access, Stream stream, const NormForward& on) {
  constexpr int width = Access::width;
  const ForwardArgs<Norm> args(on);
  const Vectors<Access, 1, 2, 4, 8> options;
  const RowPlan plan = plan_rows(options, args.dim / width, args.rows <= kFewRows, Access::bytes == 16 ? 4 : 8,
                                 kForwardThreads<Norm, width>, 128);
  dispatch_int(options, plan.vectors, [&](auto vectors) {
    launch(name, norm_forward_rows<Norm, width, vectors>,
           std::min<int64_t>(ceil_div(args.rows, plan.threads.y), INT_MAX), plan.threads, 0, stream, args);
  });
  if (plan.vectors == 0 && !launch_norm_forward_cluster<Norm>(name, access, stream, args))
    launch(name, norm_forward_chunks<Norm, width>, std::min<int64_t>(args.rows, INT_MAX), kChunkThreads, 0, stream, args);
}

// How many vectors of a row a thread may hold beside the next row's and the sums.
template <class Norm, class Access>
using BackwardVectors = std::conditional_t<Norm::centred || Norm::adds, Vectors<Access, 1, 2>, Vectors<Access, 1, 2, 4>>;

template <class Norm, class Access>
void launch_norm_backward(const char* name, Access access, Stream stream, const NormBackward& on) {
  using acc_t = acc_of<typename Norm::scalar_t>;
  constexpr int width = Access::width;
  const BackwardArgs<Norm> args(on);
  const int64_t parts = args.dweight && args.dbias ? on.partial.rows() / 2 : on.partial.rows();
  const bool sums = args.dweight || args.dbias, matrix = args.dx || args.dresidual;
  const BackwardVectors<Norm, Access> options;
  const RowPlan plan = plan_rows(options, args.dim / width, args.rows <= kFewRows, Access::bytes == 16 ? 2 : 8,
                                 kBackwardThreads, !sums || parts > 132 ? 256 : 512);
  const bool cluster = matrix && plan.vectors == 0 &&
                       launch_norm_backward_cluster<Norm>(name, access, stream, args, sums ? parts : std::min<int64_t>(args.rows, 132));
  const bool fused = matrix && sums && (plan.vectors > 0 || cluster);
  if (matrix && !cluster) {
    BackwardArgs<Norm> given = args;
    if (!fused) given.dweight = given.dbias = nullptr;
    dispatch_int(options, plan.vectors, [&](auto vectors) {
      const int64_t blocks = fused ? parts : std::min<int64_t>(ceil_div(args.rows, plan.threads.y), 32 * 132);
      launch(name, norm_backward_rows<Norm, width, vectors>, blocks, plan.threads,
             fused ? group_bytes(plan.threads, kSums<Norm> * vectors * width * sizeof(acc_t)) : 0, stream, given);
    });
    if (plan.vectors == 0)
      launch(name, norm_backward_chunks<Norm, width>, std::min<int64_t>(args.rows, INT_MAX), kChunkThreads, 0, stream,
             given);
  }
  if (sums && !fused) {
    const TilePlan columns = plan_tiles(args.dim / width, 1, 64);
    launch(name, norm_backward_columns<Norm, width>, columns.blocks(parts), columns.threads,
           group_bytes(columns.threads, kSums<Norm> * width * sizeof(acc_t)), stream, args, columns.tiles);
  }
  if (sums) add_parts(name, stream, on.dweight, on.dbias, on.partial);
}

}  // namespace pylayers::cuda
