// y = (x − mean) · weight + bias, with the mean along each row or over `count` neighbouring rows, column by column, and its
// gradients: dx = grad · weight − mean(grad · weight), dweight = Σ grad · (x − mean), dbias = Σ grad.
//
// Held: a row (up to 16384 numbers) is in the registers of part of a warp, a warp or a block; a column (up to 1024) in those of a
// block that stands on a tile of columns at least 64 bytes wide. x is read once and y written once; backward reads grad and x
// and writes dx, once each, and in the case of columns makes the sums of the parameters on the way.
// Split: blocks sum their shares of the longer ones, a second kernel adds the shares in order, a third one subtracts the means:
// x is read twice, the second time out of the L2 cache if it fits. Backward reads grad twice and x once.
// Where the means are along rows, dweight and dbias are a kernel of their own, which reads grad and x once more.
//
// Full speed needs rows that start and end at multiples of 16 bytes; others take narrower accesses.

#include "centered_split.cuh"
#include "parts.h"

namespace pylayers::cuda {
namespace {

using namespace centering;

constexpr auto kForward = "centered_forward", kBackward = "centered_backward";

// weight_first: dx, whose mean is that of grad · weight
template <class Access, class scalar_t, class Bool>
void along_rows(Access, const char* name, Stream stream, Center<scalar_t> args, const Output& partial, Bool weight_first) {
  constexpr int width = Access::width;
  constexpr bool first = Bool::value;
  if (!partial) {
    const std::conditional_t<Access::bytes == 16, std::integer_sequence<int, 1, 2, 4, 8>, std::integer_sequence<int, 2, 8>> options;
    const RowPlan plan = plan_rows(options, args.dim / width, args.rows <= 256, Access::bytes == 16 ? 4 : 8, kHeldThreads, 128);
    if (plan.vectors == 0)
      return launch(name, center_rows_twice<scalar_t, width, first>, std::min<int64_t>(args.rows, INT_MAX), kHeldThreads, 0, stream, args);
    return dispatch_int(options, plan.vectors, [&](auto vectors) {
      launch(name, center_rows<scalar_t, width, vectors, first>, std::min<int64_t>(ceil_div(args.rows, plan.threads.y), INT_MAX),
             plan.threads, 0, stream, args);
    });
  }
  using acc_t = acc_of<scalar_t>;
  const int64_t parts = partial.dim();
  const Center<scalar_t> summed{nullptr, nullptr, args.x, first ? args.weight : nullptr, nullptr, args.rows, args.dim, 1, args.dim,
                                0, args.x_stride, args.inverse, 0};
  launch(name, center_row_sums<scalar_t, width>, args.rows * parts, kThreads, 0, stream, summed, data<acc_t>(partial), unsigned(parts));
  launch(name, center_row_means<acc_t>, args.rows, kThreads, 0, stream, args.mean, data<const acc_t>(partial), parts, args.inverse);
  args.count = 1;
  const int64_t tiles = ceil_div(args.dim / width, kThreads * vectors_at_once<scalar_t, width>);
  launch(name, center_subtract<scalar_t, width, true, first>, args.rows * tiles, kThreads, 0, stream, args, unsigned(tiles), 1u);
}

// Threads of a block that holds columns: as wide a tile as leaves room for all rows, 64 bytes at least.
dim3 column_threads(int64_t count, int64_t columns, int vectors) {
  const int groups = power_of_two_from(ceil_div(count, vectors));
  return dim3(std::min(power_of_two_from(columns), std::max(4, kThreads / groups)), groups);
}

template <bool backward, class Access, class scalar_t>
void over_held_columns(Access, const char* name, Stream stream, const Center<scalar_t>& args, const Sums<scalar_t>& sums) {
  constexpr int width = Access::width;
  const int64_t columns = args.dim / width, groups = args.rows / args.count;
  const int64_t shares = sums.partial ? sums.shares : groups;
  const std::integer_sequence<int, 2, 16> options;
  dispatch_int(options, args.count <= 128 ? 2 : 16, [&](auto vectors) {
    const dim3 threads = column_threads(args.count, columns, vectors);
    const int64_t tiles = ceil_div(columns, threads.x);
    const size_t bytes = width * sizeof(acc_of<scalar_t>);
    launch(name, center_columns<scalar_t, width, vectors, backward>, tiles * shares, threads,
           group_bytes(threads, (1 + backward) * bytes) + kinds_of_columns * threads.x * bytes, stream, args, sums, unsigned(tiles), unsigned(shares));
  });
}

template <bool backward, bool by_row, class Access, class scalar_t>
void sum_columns(Access, const char* name, Stream stream, const Center<scalar_t>& args, const Sums<scalar_t>& sums) {
  const TilePlan plan = plan_tiles(args.dim / Access::width, 1, kColumnLanes);
  launch(name, center_column_sums<scalar_t, Access::width, backward, by_row>, plan.blocks(sums.shares), plan.threads,
         group_bytes(plan.threads, (1 + backward) * Access::width * sizeof(acc_of<scalar_t>)), stream, args, sums, unsigned(plan.tiles));
}

template <class Access, class scalar_t>
void subtract_columns(Access, const char* name, Stream stream, const Center<scalar_t>& args, const Sums<scalar_t>& sums) {
  constexpr int width = Access::width;
  const int64_t groups = args.rows / args.count;
  add_parts<acc_of<scalar_t>>(name, stream, args.mean, nullptr, sums.partial, groups, sums.shares / groups, args.dim, args.inverse);
  const TilePlan plan = plan_tiles(args.dim / width, 1, kColumnLanes);
  const int64_t shares = ceil_div(args.count, plan.threads.y * 16);  // what belongs to a column is read once for 16 rows
  launch(name, center_subtract<scalar_t, width, false, false>, groups * shares * plan.tiles, plan.threads, 0, stream, args, unsigned(plan.tiles),
         unsigned(shares));
}

template <class Access, class scalar_t>
void backward_along(Access access, Stream stream, const Center<scalar_t>& args, const Sums<scalar_t>& sums, const Output& row_partial) {
  if (args.y && args.weight) along_rows(access, kBackward, stream, args, row_partial, std::true_type());
  if (args.y && !args.weight) along_rows(access, kBackward, stream, args, row_partial, std::false_type());
  if (sums.partial) sum_columns<true, true>(access, kBackward, stream, args, sums);
}

template <class Access, class scalar_t>
void backward_over(Access access, Stream stream, const Center<scalar_t>& args, const Sums<scalar_t>& sums) {
  if (args.count <= kHeldColumn) return over_held_columns<true>(access, kBackward, stream, args, sums);
  sum_columns<true, false>(access, kBackward, stream, args, sums);
  if (args.y) subtract_columns(access, kBackward, stream, args, sums);
}

// The parts of both sums, or from that of `first` on, by the features: the columns repeat them.
Output parts_of(const Output& partial, int64_t first, int64_t features) {
  Output parts = partial;
  const int64_t bytes = bytes_of(partial.dtype), numbers = partial.size[1] * partial.size[2];
  parts.data = static_cast<char*>(partial.data) + first * numbers * bytes;
  parts.dims = 2;
  parts.size[0] = (partial.size[0] - first) * numbers / features;
  parts.size[1] = parts.stride[0] = features;
  parts.stride[1] = 1;
  return parts;
}

}  // namespace

void centered_forward(Stream stream, Output y, Output mean, Output partial, Input x, Input weight, Input bias, int64_t count) {
  dispatch(x.dtype, access_bytes(y, x, weight, bias), [&](auto access) {
    using scalar_t = typename decltype(access)::scalar_t;
    using acc_t = acc_of<scalar_t>;
    const Center<scalar_t> args{data<scalar_t>(y), data<acc_t>(mean), data<const scalar_t>(x), data<const scalar_t>(weight),
                                data<const scalar_t>(bias), x.rows(), x.dim(), count,
                                weight ? weight.dim() : bias ? bias.dim() : x.dim(), y.stride[0], x.stride[0],
                                acc_t(1. / (count ? count : x.dim())), acc_t(weight ? 0 : 1)};
    if (!count) return along_rows(access, kForward, stream, args, partial, std::false_type());
    Sums<scalar_t> sums{data<acc_t>(partial), partial ? partial.rows() : 0};
    if (count <= kHeldColumn) return over_held_columns<false>(access, kForward, stream, args, Sums<scalar_t>{});
    sum_columns<false, false>(access, kForward, stream, args, sums);
    subtract_columns(access, kForward, stream, args, sums);
  });
}

void centered_backward(Stream stream, Output dx, Output dweight, Output dbias, Output partial, Output grad_mean, Output row_partial,
                       Input grad, Input x, Input weight, Input mean, int64_t count) {
  dispatch(grad.dtype, access_bytes(dx, grad, x, weight), [&](auto access) {
    using scalar_t = typename decltype(access)::scalar_t;
    using acc_t = acc_of<scalar_t>;
    const Center<scalar_t> args{data<scalar_t>(dx), data<acc_t>(grad_mean), data<const scalar_t>(grad), data<const scalar_t>(weight),
                                nullptr, grad.rows(), grad.dim(), count, weight ? weight.dim() : grad.dim(), dx.stride[0],
                                grad.stride[0], acc_t(1. / (count ? count : grad.dim())), acc_t(weight ? 0 : 1)};
    const Sums<scalar_t> sums{data<acc_t>(partial), partial ? partial.size[1] : 0, data<const scalar_t>(x), data<const acc_t>(mean),
                              x.stride[0]};
    count ? backward_over(access, stream, args, sums) : backward_along(access, stream, args, sums, row_partial);
  });
  if (dbias || dweight) add_parts(kBackward, stream, dbias, dweight, parts_of(partial, dbias ? 0 : 1, (dbias ? dbias : dweight).dim()));
}

}  // namespace pylayers::cuda
