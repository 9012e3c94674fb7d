// loss = Σ_c q_c · (lse − z_c) + z_loss · lse² over the row, lse = ln Σ_c e^z_c, of logits z = x, or softcap · tanh(x / softcap); and
// its gradient dx = grad · (e^(z − top) · scale − q) · dz/dx. q, the weighted probabilities, are those of one class, of one class and
// a share for each of the others, or given.
//
// Forward: x is read once, and four numbers a row are written. Part of a warp, a warp or a block has a row, each thread a running
// maximum of its own; the sums beside the probabilities are of distances from it, which have one sign, so that nothing cancels.
// Backward: x is read once and dx written once, nothing is summed; long rows are cut into parts for several blocks, and the last
// rows come first. Rows that do not count are not read. Given probabilities are read once in each step.
//
// All vectors of x in forward and of dx in backward have 16 bytes and begin at multiples of 16, also where rows do not: single
// threads take the columns around them. What lies beside such multiples then is loaded number by number.

#include "device/cross_entropy.cuh"

namespace pylayers::cuda {
namespace {

constexpr int kMostThreads = 1024, kBackwardThreads = 256;
constexpr int kTurns = 4;                     // of a thread at its vectors, where there are enough of them:
constexpr int64_t kManyThreads = 132 * 1024;  // as many as run at once

template <class scalar_t>
struct Forward : Call<scalar_t> {
  acc_of<scalar_t>*loss, *top, *scale, *share;
  acc_of<scalar_t> z_loss;
};

template <class scalar_t>
struct Backward : Call<scalar_t> {
  scalar_t* dx;
  const acc_of<scalar_t>*grad, *top, *scale, *share;
  int64_t dx_stride, grad_stride;
  unsigned parts;
  int vectors;  // of a part
};

// The vectors index, index + blockDim.x, … of a row, which begin at its column `col`; `whole`: all of them are there.
template <bool whole, bool capped, int width, class scalar_t, Labels labels>
__device__ void add_vectors(Sums<scalar_t, labels>& sums, const Call<scalar_t>& call, int64_t row, int64_t col, int64_t index, int64_t count) {
  using acc_t = acc_of<scalar_t>;
  constexpr int vectors = vectors_of<scalar_t, labels, capped>;
  Vector<scalar_t, width> x[vectors], soft[vectors];
  load_aligned<whole>(x, call.x_row(row) + col, index, count);
  if constexpr (labels == Labels::probabilities) load_anywhere<whole>(soft, call.soft_row(row) + col, index, count);
  Values<acc_t, width> z[vectors];
  acc_t most = -infinity<acc_t>();
#pragma unroll
  for (int v = 0; v < vectors; ++v) {
    z[v] = logits<capped>(call, x[v]);
#pragma unroll
    for (int i = 0; i < width; ++i)
      if (whole || index + v * blockDim.x < count) most = fmax(most, z[v][i]);
  }
  sums.see(most);
#pragma unroll
  for (int v = 0; v < vectors; ++v) {
    const int64_t at = index + v * blockDim.x;
    if (whole || at < count) sums.add(z[v], shares<labels>(call, soft[v], col + at * width));
  }
}

template <int width, Labels labels, bool capped, class scalar_t>
__device__ Sums<scalar_t, labels> sums_of(const Call<scalar_t>& call, int64_t row, int64_t dim) {
  constexpr bool soft_too = labels == Labels::probabilities;
  const int64_t step = vectors_of<scalar_t, labels, capped> * blockDim.x, last = step - blockDim.x;
  const Ragged<width> cut(call.x_row(row), dim);
  const int64_t edge = cut.edge(threadIdx.x), edges = threadIdx.x < cut.edges ? dim : 0;
  const auto x = load_one<1>(call.x_row(row), edge, edges), soft = load_one<1>(call.soft_row(row), edge, soft_too ? edges : 0);
  Sums<scalar_t, labels> sums;
  int64_t index = threadIdx.x;
  for (; index + last < cut.count; index += step) add_vectors<true, capped, width>(sums, call, row, cut.head, index, cut.count);
  if (index < cut.count) add_vectors<false, capped, width>(sums, call, row, cut.head, index, cut.count);
  if (edges == 0) return sums;
  const auto z = logits<capped>(call, x);
  sums.see(z[0]);
  sums.add(z, shares<labels>(call, soft, edge));
  return sums;
}

// By one thread of a row that counts. own: the target's logit, where there is one.
template <Labels labels, bool capped, class scalar_t>
__device__ void put(const Forward<scalar_t>& args, int64_t row, const Sums<scalar_t, labels>& sums, const Vector<scalar_t, 1>& own,
                    acc_of<scalar_t> share) {
  using acc_t = acc_of<scalar_t>;
  const acc_t shift = shift_of(sums.top), log_total = log(sums.total), lse = shift + log_total;
  acc_t loss = 0, slope = 0;  // slope: the derivative by lse
  if constexpr (labels != Labels::probabilities) {
    slope = args.keep * share;
    loss = slope * (log_total - (logits<capped>(args, own)[0] - shift));
  }
  if constexpr (labels != Labels::classes) {
    const acc_t each = labels == Labels::smoothed ? args.each : 1;
    slope += each * sums.share;
    loss += each * (sums.share * log_total - sums.distance);
  }
  args.loss[row] = loss + args.z_loss * lse * lse;
  args.top[row] = sums.top;
  args.scale[row] = (slope + 2 * args.z_loss * lse) / sums.total;
  args.share[row] = share;
}

template <class scalar_t, int width, Labels labels, bool capped>
__global__ void __launch_bounds__(kMostThreads) cross_entropy_forward_kernel(const Forward<scalar_t> args) {
  using acc_t = acc_of<scalar_t>;
  int turn = 0;
  for (int64_t first = int64_t(blockIdx.x) * blockDim.y; first < args.rows; first += int64_t(gridDim.x) * blockDim.y) {
    const int64_t row = first + threadIdx.y;
    int64_t column;
    const RowKind kind = args.kind(row, &column);
    const bool leads = threadIdx.x == 0 && row < args.rows, counted = kind == RowKind::counted;
    Vector<scalar_t, 1> own = {};
    acc_t share = 1;
    if (leads && counted && args.target) {
      own = load_one<1>(args.x_row(row), column, args.dim);
      if (args.weight) share = unpack(load_one<1>(args.weight, column, args.dim))[0];
    }
    auto sums = sums_of<width, labels, capped>(args, row, counted ? args.dim : 0);
    sums.combine(turn ^= 1);
    if (leads && counted) put<labels, capped>(args, row, sums, own, share);
    if (leads && !counted) args.loss[row] = args.top[row] = args.scale[row] = args.share[row] = kind == RowKind::wrong ? nan<acc_t>() : 0;
  }
}

// The gradient by the logits of a row.
template <class scalar_t, Labels labels, bool capped>
struct Gradient {
  using acc_t = acc_of<scalar_t>;
  const Call<scalar_t>& call;
  acc_t top, scale, hit, other;  // factors of the exponentials, of the target class and of the shares of every class

  __device__ Gradient(const Backward<scalar_t>& args, int64_t row) : call(args), top(args.top[row]) {
    const acc_t grad = args.grad[row * args.grad_stride];
    scale = grad * args.scale[row];
    hit = grad * (args.keep * args.share[row]);
    other = labels == Labels::probabilities ? grad : grad * args.each;
  }
  // target: the place of its class in the vector, if that is in it
  template <int width>
  __device__ Values<acc_t, width> operator()(const Vector<scalar_t, width>& x, const Vector<scalar_t, width>& soft, int64_t col,
                                             int target) const {
    const auto z = logits<capped>(call, x);
    const auto q = shares<labels>(call, soft, col);
    Values<acc_t, width> d;
#pragma unroll
    for (int i = 0; i < width; ++i) {
      d[i] = exponential<scalar_t>(z[i] - top) * scale;
      if constexpr (labels != Labels::classes) d[i] -= other * q[i];
    }
    if (labels != Labels::probabilities && unsigned(target) < width) {
#pragma unroll
      for (int i = 0; i < width; ++i)
        if (i == target) d[i] -= hit;
    }
#pragma unroll
    for (int i = 0; i < width; ++i)
      if constexpr (capped) d[i] *= 1 - z[i] * call.inverse * (z[i] * call.inverse);
    return d;
  }
};

// The vectors index, index + blockDim.x, … of a part; `whole`: all of them are there. target: its class in the part, if that is in it
template <bool whole, int width, class scalar_t, Labels labels, bool capped>
__device__ void write_vectors(const Gradient<scalar_t, labels, capped>& gradient, int64_t row, const Part<width>& part, int index, int target,
                              scalar_t* dx) {
  constexpr int vectors = vectors_of<scalar_t, labels, capped>;
  Vector<scalar_t, width> x[vectors], soft[vectors];
  load_anywhere<whole>(x, gradient.call.x_row(row) + part.col, index, part.count);
  if constexpr (labels == Labels::probabilities) load_anywhere<whole>(soft, gradient.call.soft_row(row) + part.col, index, part.count);
#pragma unroll
  for (int v = 0; v < vectors; ++v) {
    const int at = index + v * blockDim.x;
    if (whole || at < part.count)
      reinterpret_cast<Vector<scalar_t, width>*>(dx)[at] = pack<scalar_t>(gradient(x[v], soft[v], part.col + at * width, target - at * width));
  }
}

template <int width, class scalar_t, Labels labels, bool capped>
__device__ void write_gradient(const Gradient<scalar_t, labels, capped>& gradient, int64_t row, int64_t column, const Part<width>& part,
                               scalar_t* dx_row) {
  constexpr bool soft_too = labels == Labels::probabilities;
  const Call<scalar_t>& call = gradient.call;
  const int step = vectors_of<scalar_t, labels, capped> * blockDim.x, last = step - blockDim.x;
  const int64_t place = column - part.col;
  const int target = place >= 0 && place < int64_t(part.count) * width ? int(place) : INT_MAX;
  int index = threadIdx.x;
  for (; index + last < part.count; index += step) write_vectors<true>(gradient, row, part, index, target, dx_row + part.col);
  if (index < part.count) write_vectors<false>(gradient, row, part, index, target, dx_row + part.col);
  if (threadIdx.x >= part.edges) return;
  const int64_t edge = part.edge(threadIdx.x);
  const auto x = load_one<1>(call.x_row(row), edge, call.dim), soft = load_one<1>(call.soft_row(row), edge, soft_too ? call.dim : 0);
  store_one(dx_row, edge, call.dim, gradient(x, soft, edge, edge == column ? 0 : 1));
}

// The same number in every column.
template <class scalar_t, int width>
__device__ void fill(acc_of<scalar_t> value, int64_t dim, const Part<width>& part, scalar_t* dx_row) {
  Values<acc_of<scalar_t>, width> values;
#pragma unroll
  for (int i = 0; i < width; ++i) values[i] = value;
  for (int index = threadIdx.x; index < part.count; index += blockDim.x) store_one(dx_row + part.col, index, part.count, values);
  if (threadIdx.x < part.edges) store_one<scalar_t, 1>(dx_row, part.edge(threadIdx.x), dim, {value});
}

template <class scalar_t, int width, Labels labels, bool capped>
__global__ void __launch_bounds__(kBackwardThreads, sizeof(scalar_t) == 8 ? 2 : 4) cross_entropy_backward_kernel(const Backward<scalar_t> args) {
  const unsigned part = blockIdx.x % args.parts, groups = gridDim.x / args.parts;
  for (int64_t back = int64_t(blockIdx.x / args.parts) * blockDim.y + threadIdx.y; back < args.rows; back += int64_t(groups) * blockDim.y) {
    const int64_t row = args.rows - 1 - back;  // what forward read last may still be in the cache
    scalar_t* const dx_row = args.dx + row * args.dx_stride;
    const Gradient<scalar_t, labels, capped> gradient(args, row);  // loads while the target is under way
    int64_t column;
    const RowKind kind = args.kind(row, &column);
    const Part<width> own(Ragged<width>(dx_row, args.dim), part, args.vectors);
    if (kind == RowKind::counted) write_gradient(gradient, row, column, own, dx_row);
    else fill<scalar_t, width>(kind == RowKind::wrong ? nan<acc_of<scalar_t>>() : 0, args.dim, own, dx_row);
  }
}

// One where all threads that can run have only as much to do; else more, so that what they do beside their vectors weighs less.
int64_t turns_for(int64_t rows, int64_t count, int vectors) {
  return std::clamp<int64_t>(rows * count / (vectors * kManyThreads), 1, kTurns);
}

// Threads for rows of about `count` vectors, of which each takes `each`, or a multiple where `most` of them are too few. There is
// one for every column at an edge.
dim3 threads_for(int64_t count, int width, int64_t each, int most) {
  const int64_t wanted = ceil_div(count, each), multiple = ceil_div(wanted, most);
  const int lanes = wanted <= 32 ? std::max({8, 2 * width, power_of_two_from(wanted)}) : int(ceil_div(ceil_div(wanted, multiple), 32) * 32);
  return dim3(lanes, power_of_two_up_to(128 / lanes));
}

template <class scalar_t>
Call<scalar_t> call_of(const Input& x, const Input& target, const Input& soft, const Input& weight, int64_t ignore_index,
                       double smoothing, double softcap) {
  using acc_t = acc_of<scalar_t>;
  return {data<const scalar_t>(x), data<const scalar_t>(soft), data<const scalar_t>(weight), data<const int64_t>(target), x.rows(), x.dim(),
          x.stride[0], soft.stride[0], ignore_index, acc_t(1 - smoothing), acc_t(smoothing / double(x.dim())), acc_t(softcap),
          softcap == 0 ? acc_t(0) : 1 / acc_t(softcap)};
}

}  // namespace

void cross_entropy_forward(Stream stream, Output loss, Output top, Output scale, Output share, Input x, Input target, Input soft,
                           Input weight, int64_t ignore_index, double smoothing, double z_loss, double softcap) {
  dispatch_ragged(x.dtype, [&](auto access) {
    with_labels(bool(soft), smoothing, softcap, [&](auto labels, auto capped) {
      using scalar_t = typename decltype(access)::scalar_t;
      using acc_t = acc_of<scalar_t>;
      constexpr int width = decltype(access)::width;
      constexpr int vectors = vectors_of<scalar_t, labels, capped>;
      const int64_t turns = turns_for(x.rows(), x.dim() / width, vectors);
      const dim3 threads = threads_for(x.dim() / width, width, vectors * turns, turns == 1 ? kMostThreads : kMostThreads / 2);
      launch("cross_entropy_forward", cross_entropy_forward_kernel<scalar_t, width, labels, capped>,
             std::min<int64_t>(ceil_div(x.rows(), threads.y), INT_MAX), threads, 0, stream,
             Forward<scalar_t>{call_of<scalar_t>(x, target, soft, weight, ignore_index, smoothing, softcap), data<acc_t>(loss),
                               data<acc_t>(top), data<acc_t>(scale), data<acc_t>(share), acc_t(z_loss)});
    });
  });
}

void cross_entropy_backward(Stream stream, Output dx, Input grad, Input x, Input target, Input soft, Input weight, Input top, Input scale,
                            Input share, int64_t ignore_index, double smoothing, double softcap) {
  dispatch_ragged(x.dtype, [&](auto access) {
    with_labels(bool(soft), smoothing, softcap, [&](auto labels, auto capped) {
      using scalar_t = typename decltype(access)::scalar_t;
      using acc_t = acc_of<scalar_t>;
      constexpr int width = decltype(access)::width, vectors = vectors_of<scalar_t, labels, capped>;
      const int64_t count = x.dim() / width, turns = turns_for(x.rows(), count, vectors);
      const int64_t parts = std::max<int64_t>(ceil_div(count, kBackwardThreads * vectors * turns), 1);
      const int64_t each = std::min(count, ceil_div(ceil_div(count, parts), 32) * 32);
      const dim3 threads = threads_for(each, width, vectors * turns, kBackwardThreads);
      launch("cross_entropy_backward", cross_entropy_backward_kernel<scalar_t, width, labels, capped>,
             std::min(ceil_div(x.rows(), threads.y), INT_MAX / parts) * parts, threads, 0, stream,
             Backward<scalar_t>{call_of<scalar_t>(x, target, soft, weight, ignore_index, smoothing, softcap), data<scalar_t>(dx),
                                data<const acc_t>(grad), data<const acc_t>(top), data<const acc_t>(scale), data<const acc_t>(share),
                                dx.stride[0], grad.stride[0], unsigned(parts), int(each)});
    });
  });
}

}  // namespace pylayers::cuda
