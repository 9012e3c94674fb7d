// y = activation((x − mean) · rstd · weight + bias), with the statistics of groups of neighbouring channels, and its gradients: with
// dz the gradient before the activation and g = dz · weight, dx = rstd · (g − mean(g) − n · mean(g · n)), dweight = Σ dz · n,
// dbias = Σ dz.
//
// Held: a group (up to 16384 numbers, where the channels come first) is in the registers of part of a warp, a warp or a block; x is
// read once and y written once. Split: blocks find the moments of their shares of each channel, a second kernel merges those of a
// group, a third one normalises: x is read twice, the second time out of the L2 cache if it fits. Backward sums shares of each
// channel, takes the means of a group from these, and reads grad and x a second time for dx; the sums of the channels are the parts
// of dweight and dbias.
//
// Full speed needs channels, or positions where the channels are last, that start and end at multiples of 16 bytes; others take
// narrower accesses.

#include "group_norm_last.cuh"
#include "parts.h"

namespace pylayers::cuda {
namespace {

using namespace grouping;

constexpr auto kForward = "group_norm_forward", kBackward = "group_norm_backward";

template <class scalar_t>
Group<scalar_t> group_of(Output y, Output partial, Input x, Input weight, Input bias, int64_t groups, bool last, int64_t activation) {
  using acc_t = acc_of<scalar_t>;
  Group<scalar_t> args = {};
  args.y = data<scalar_t>(y), args.partial = data<acc_t>(partial), args.x = data<const scalar_t>(x);
  args.weight = data<const scalar_t>(weight), args.bias = data<const scalar_t>(bias);
  args.batch = x.size[0], args.channels = x.size[last ? 2 : 1], args.positions = x.size[last ? 1 : 2];
  args.groups = groups, args.each = args.channels / groups, args.x_stride = x.stride[0];
  args.parts = partial ? partial.rows() / 2 / args.batch : 0;
  args.inverse = acc_t(1. / double(args.each * args.positions));
  args.silu = Activation(activation) == Activation::silu, args.points = last;
  return args;
}

// A group with one position as a row, for access_bytes.
template <class View>
View of_group(View view, int64_t each) {
  if (view) view.size[view.dims - 1] = each;
  return view;
}

template <class Access, class scalar_t>
void hold(Access, Stream stream, const Group<scalar_t>& args) {
  constexpr int width = Access::width;
  const std::conditional_t<Access::bytes == 16, std::integer_sequence<int, 1, 2, 4, 8>, std::integer_sequence<int, 2, 8>> options;
  const int64_t rows = args.batch * args.groups;
  const RowPlan plan = plan_rows(options, args.each * args.positions / width, rows <= kFewRows, Access::bytes == 16 ? 4 : 8,
                                 kHeldThreads, 128);
  if (plan.vectors == 0)
    return launch(kForward, group_norm_twice<scalar_t, width>, std::min<int64_t>(rows, INT_MAX), kHeldThreads, 0, stream, args);
  dispatch_int(options, plan.vectors, [&](auto vectors) {
    launch(kForward, group_norm_held<scalar_t, width, vectors>, std::min<int64_t>(ceil_div(rows, plan.threads.y), INT_MAX),
           plan.threads, 0, stream, args);
  });
}

// Threads for rows of `count` numbers or vectors, and the blocks that `rows` take.
struct Rows {
  dim3 threads;
  int64_t blocks;
  Rows(int64_t rows, int64_t count) : threads(plan_tiles(count, 1, kThreads, kThreads).threads), blocks(ceil_div(rows, threads.y)) {}
};

template <class Access, class scalar_t>
Rows shares_of_channels(Access, const Group<scalar_t>& args) {
  const int64_t each = ceil_div(args.positions / Access::width, args.parts);
  return {args.batch * args.channels * args.parts, ceil_div(each, vectors_at_once<scalar_t, Access::width>)};
}

template <class scalar_t>
Rows groups_of_shares(const Group<scalar_t>& args) { return {args.batch * args.groups, args.parts * args.each}; }

// Of an input of which the channels are last: what belongs to a channel is read once for 16 positions.
template <class scalar_t>
int64_t shares_to_write(const Group<scalar_t>& args, const TilePlan& plan) { return ceil_div(args.positions, plan.threads.y * 16); }

template <class Access, class scalar_t>
void forward_first(Access access, Stream stream, const Group<scalar_t>& args) {
  constexpr int width = Access::width;
  const Rows shares = shares_of_channels(access, args), groups = groups_of_shares(args);
  launch(kForward, group_norm_moments<scalar_t, width>, shares.blocks, shares.threads, 0, stream, args);
  launch(kForward, group_norm_merge<scalar_t>, groups.blocks, groups.threads, 0, stream, args, int64_t(width));
  const TilePlan plan = plan_tiles(args.positions / width, vectors_at_once<scalar_t, width>, kThreads);
  launch(kForward, group_norm_apply<scalar_t, width>, plan.blocks(plan.shares(args.batch * args.channels)), plan.threads, 0,
         stream, args, unsigned(plan.tiles));
}

template <class Access, class scalar_t>
void forward_last(Access, Stream stream, const Group<scalar_t>& args) {
  constexpr int width = Access::width;
  const TilePlan plan = plan_tiles(args.channels / width, 1, 64);
  const Rows groups = groups_of_shares(args);
  const unsigned tiles = unsigned(plan.tiles);
  launch(kForward, group_norm_last_moments<scalar_t, width>, plan.blocks(args.batch * args.parts), plan.threads,
         group_bytes(plan.threads, (2 * width + 1) * sizeof(acc_of<scalar_t>)), stream, args, tiles);
  launch(kForward, group_norm_merge<scalar_t>, groups.blocks, groups.threads, 0, stream, args, int64_t(1));
  const int64_t shares = shares_to_write(args, plan);
  launch(kForward, group_norm_last_apply<scalar_t, width>, plan.blocks(args.batch * shares), plan.threads, 0, stream, args,
         tiles, unsigned(shares));
}

template <class Access, class scalar_t>
void backward_first(Access access, Stream stream, const Group<scalar_t>& args) {
  constexpr int width = Access::width;
  const Rows shares = shares_of_channels(access, args), groups = groups_of_shares(args);
  launch(kBackward, group_norm_sums<scalar_t, width>, shares.blocks, shares.threads, 0, stream, args);
  if (!args.y) return;
  launch(kBackward, group_norm_means<scalar_t>, groups.blocks, groups.threads, 0, stream, args);
  const TilePlan plan = plan_tiles(args.positions / width, vectors_at_once<scalar_t, width>, kThreads);
  launch(kBackward, group_norm_gradient<scalar_t, width>, plan.blocks(plan.shares(args.batch * args.channels)),
         plan.threads, 0, stream, args, unsigned(plan.tiles));
}

template <class Access, class scalar_t>
void backward_last(Access, Stream stream, const Group<scalar_t>& args) {
  constexpr int width = Access::width;
  const TilePlan plan = plan_tiles(args.channels / width, 1, 64);
  const unsigned tiles = unsigned(plan.tiles);
  launch(kBackward, group_norm_last_sums<scalar_t, width>, plan.blocks(args.batch * args.parts), plan.threads,
         group_bytes(plan.threads, 2 * width * sizeof(acc_of<scalar_t>)), stream, args, tiles);
  if (!args.y) return;
  const Rows groups = groups_of_shares(args);
  launch(kBackward, group_norm_means<scalar_t>, groups.blocks, groups.threads, 0, stream, args);
  const int64_t shares = shares_to_write(args, plan);
  launch(kBackward, group_norm_last_gradient<scalar_t, width>, plan.blocks(args.batch * shares), plan.threads, 0, stream,
         args, tiles, unsigned(shares));
}

// The parts of one sum alone.
Output half_of(Output partial, bool second) {
  const int64_t bytes = bytes_of(partial.dtype);
  partial.size[0] /= 2;
  if (second) partial.data = static_cast<char*>(partial.data) + partial.rows() * partial.dim() * bytes;
  return partial;
}

}  // namespace

void group_norm_forward(Stream stream, Output y, Output mean, Output rstd, Output partial, Input x, Input weight, Input bias,
                        int64_t groups, int64_t last, double eps, int64_t activation) {
  const int64_t row = last && !partial ? x.dim() / groups : x.dim();
  const int bytes = last ? access_bytes(of_group(y, row), of_group(x, row), weight, bias) : access_bytes(y, x);
  dispatch(x.dtype, bytes, [&](auto access) {
    using scalar_t = typename decltype(access)::scalar_t;
    using acc_t = acc_of<scalar_t>;
    auto args = group_of<scalar_t>(y, partial, x, weight, bias, groups, last, activation);
    args.mean = data<acc_t>(mean), args.rstd = data<acc_t>(rstd), args.eps = acc_t(eps);
    if (!partial) return hold(access, stream, args);
    last ? forward_last(access, stream, args) : forward_first(access, stream, args);
  });
}

void group_norm_backward(Stream stream, Output dx, Output dweight, Output dbias, Output partial, Output means, Input grad, Input x,
                         Input weight, Input bias, Input mean, Input rstd, int64_t groups, int64_t last, int64_t activation) {
  const int bytes = last ? access_bytes(dx, grad, x, weight, bias) : access_bytes(dx, grad, x);
  dispatch(x.dtype, bytes, [&](auto access) {
    using scalar_t = typename decltype(access)::scalar_t;
    using acc_t = acc_of<scalar_t>;
    auto args = group_of<scalar_t>(dx, partial, x, weight, bias, groups, last, activation);
    args.grad = data<const scalar_t>(grad), args.grad_stride = grad.stride[0], args.means = data<acc_t>(means);
    args.mean = static_cast<acc_t*>(const_cast<void*>(mean.data)), args.rstd = static_cast<acc_t*>(const_cast<void*>(rstd.data));
    last ? backward_last(access, stream, args) : backward_first(access, stream, args);
  });
  if (dweight && dbias) return add_parts(kBackward, stream, dweight, dbias, partial);
  if (dweight) add_parts(kBackward, stream, dweight, half_of(partial, false));
  if (dbias) add_parts(kBackward, stream, dbias, half_of(partial, true));
}

}  // namespace pylayers::cuda
