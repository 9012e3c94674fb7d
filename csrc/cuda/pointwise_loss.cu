// Losses of single numbers, their sum, and their gradients by input and target.
//
// Elementwise: a loss of each number moves 3 numbers, a sum 2, gradients 3 or 4 and one more where each loss has a gradient of its own;
// where input and target are large that is all. Blocks sum their turns, and a second kernel adds the sums of the blocks in order.
// Matrices whose rows follow each other without a gap are one flat row.

#include "../pointwise_loss.h"
#include "device/column_sums.cuh"
#include "device/launch.cuh"
#include "device/rows.cuh"
#include "device/tiles.cuh"

namespace pylayers::cuda {
namespace {

constexpr int kThreads = 256;

// What a loss is made of: t the target, p the weight of what is to be 1.
template <PointwiseLoss kind, class acc_t>
struct Loss {
  acc_t x, t, p;

  __device__ acc_t value() const {
    if constexpr (kind == PointwiseLoss::squares) return (x - t) * (x - t);
    if constexpr (kind == PointwiseLoss::logits)  // without what cancels
      return (x < 0 ? -(p * t * x) : (1 - t) * x) + (1 + (p - 1) * t) * log1p(exp(-abs(x)));
    if constexpr (kind == PointwiseLoss::probabilities) return t == 0 ? 0 : t * (log(t) - x);
    if constexpr (kind == PointwiseLoss::log_probabilities) return exp(t) * (t - x);
  }
  __device__ acc_t by_input() const {
    if constexpr (kind == PointwiseLoss::squares) return 2 * (x - t);
    if constexpr (kind == PointwiseLoss::logits) {
      const acc_t e = exp(-abs(x)), near = 1 / (1 + e), far = e * near;  // σ(|x|), σ(−|x|)
      return (1 - t) * (x < 0 ? far : near) - p * t * (x < 0 ? near : far);
    }
    if constexpr (kind == PointwiseLoss::probabilities) return -t;
    if constexpr (kind == PointwiseLoss::log_probabilities) return -exp(t);
  }
  __device__ acc_t by_target() const {
    if constexpr (kind == PointwiseLoss::squares) return -2 * (x - t);
    if constexpr (kind == PointwiseLoss::logits) return (x < 0 ? -p : acc_t(-1)) * x + (p - 1) * log1p(exp(-abs(x)));
    if constexpr (kind == PointwiseLoss::probabilities) return log(t) + 1 - x;
    if constexpr (kind == PointwiseLoss::log_probabilities) return exp(t) * (t - x + 1);
  }
};

template <class scalar_t>
struct Call {
  const scalar_t *x, *target, *weight, *pos_weight;
  int64_t rows, dim, tiles, x_stride, target_stride, weight_stride, pos_weight_stride;
};

// The vectors that a thread has of a row.
template <class scalar_t, int width>
struct Held {
  static constexpr int vectors = vectors_at_once<scalar_t, width>;
  Vector<scalar_t, width> x[vectors], target[vectors], weight[vectors], pos_weight[vectors];
  bool weighed, weighs_positive;

  __device__ Held(const Call<scalar_t>& call, int64_t row, int64_t index, bool reads_x = true)
      : weighed(call.weight), weighs_positive(call.pos_weight) {
    const int64_t count = call.dim / width;
    load(x, call.x + row * call.x_stride, index, reads_x ? count : 0);
    load(target, call.target + row * call.target_stride, index, count);
    load(weight, call.weight + row * call.weight_stride, index, weighed ? count : 0);
    load(pos_weight, call.pos_weight + row * call.pos_weight_stride, index, weighs_positive ? count : 0);
  }
  // body(i, loss, weight) for the numbers of vector v.
  template <PointwiseLoss kind, class Body>
  __device__ void each(int v, const Body& body) const {
    using acc_t = acc_of<scalar_t>;
    const auto xs = unpack(x[v]), ts = unpack(target[v]), ws = unpack(weight[v]), ps = unpack(pos_weight[v]);
#pragma unroll
    for (int i = 0; i < width; ++i)
      body(i, Loss<kind, acc_t>{xs[i], ts[i], weighs_positive ? ps[i] : acc_t(1)}, weighed ? ws[i] : acc_t(1));
  }
};

template <class scalar_t, int width, PointwiseLoss kind>
__global__ void __launch_bounds__(kThreads) pointwise_loss_each(const Call<scalar_t> call, scalar_t* loss) {
  using acc_t = acc_of<scalar_t>;
  const Tile tile = this_tile(call.rows, call.tiles, vectors_at_once<scalar_t, width>);
  for (int64_t row = tile.row; row < tile.last; row += blockDim.y) {
    const Held<scalar_t, width> held(call, row, tile.index);
#pragma unroll
    for (int v = 0; v < held.vectors; ++v) {
      Values<acc_t, width> y;
      held.template each<kind>(v, [&](int i, const auto& one, acc_t weight) { y[i] = weight * one.value(); });
      store_one(loss + row * call.dim, tile.index + v * blockDim.x, call.dim / width, y);
    }
  }
}

// A turn is a tile of as many rows as there are threadIdx.y.
template <class scalar_t, int width, PointwiseLoss kind>
__global__ void __launch_bounds__(kThreads) pointwise_loss_sums(const Call<scalar_t> call, acc_of<scalar_t>* partial, int64_t turns) {
  using acc_t = acc_of<scalar_t>;
  constexpr int vectors = vectors_at_once<scalar_t, width>;
  const int64_t count = call.dim / width;
  Values<acc_t, 1> sums[1] = {};
  for (int64_t turn = blockIdx.x; turn < turns; turn += gridDim.x) {
    const int64_t row = turn / call.tiles * blockDim.y + threadIdx.y;
    const int64_t index = turn % call.tiles * vectors * blockDim.x + threadIdx.x;
    if (row >= call.rows) continue;
    const Held<scalar_t, width> held(call, row, index);
#pragma unroll
    for (int v = 0; v < vectors; ++v)
      if (index + v * blockDim.x < count)
        held.template each<kind>(v, [&](int, const auto& one, acc_t weight) { sums[0][0] += weight * one.value(); });
  }
  add_groups(sums);
  const acc_t sum = row_sum(sums[0][0], 0);
  if (threadIdx.x == 0 && threadIdx.y == 0) partial[blockIdx.x] = sum;
}

// grad of each loss, or of all.
template <class scalar_t, int width, PointwiseLoss kind>
__global__ void __launch_bounds__(kThreads)
    pointwise_loss_gradients(const Call<scalar_t> call, scalar_t* dx, scalar_t* dtarget, const scalar_t* grad, int64_t grad_stride,
                             bool of_all, acc_of<scalar_t> factor) {
  using acc_t = acc_of<scalar_t>;
  constexpr int vectors = vectors_at_once<scalar_t, width>;
  const int64_t count = call.dim / width;
  const Tile tile = this_tile(call.rows, call.tiles, vectors);
  if (of_all) factor *= unpack(load_one<1>(grad, 0, 1))[0];
  for (int64_t row = tile.row; row < tile.last; row += blockDim.y) {
    const Held<scalar_t, width> held(call, row, tile.index, dtarget || needs_input<kind>);
    Vector<scalar_t, width> incoming[vectors];
    load(incoming, grad + row * grad_stride, tile.index, of_all ? 0 : count);
#pragma unroll
    for (int v = 0; v < vectors; ++v) {
      const int64_t index = tile.index + v * blockDim.x;
      const auto g = unpack(incoming[v]);
      Values<acc_t, width> by_input, by_target;
      held.template each<kind>(v, [&](int i, const auto& one, acc_t weight) {
        const acc_t own = (of_all ? factor : g[i] * factor) * weight;
        by_input[i] = own * one.by_input();
        if (dtarget) by_target[i] = own * one.by_target();
      });
      store_one(dx + row * call.dim, index, dx ? count : 0, by_input);
      store_one(dtarget + row * call.dim, index, dtarget ? count : 0, by_target);
    }
  }
}

template <class Access>
Call<typename Access::scalar_t> call_of(Access, const TilePlan& plan, const Input& x, const Input& target, const Input& weight,
                                        const Input& pos_weight) {
  using scalar_t = typename Access::scalar_t;
  return {data<const scalar_t>(x), data<const scalar_t>(target), data<const scalar_t>(weight), data<const scalar_t>(pos_weight),
          x.rows(), x.dim(), plan.tiles, x.stride[0], target.stride[0], weight.stride[0], pos_weight.stride[0]};
}

template <class Access>
TilePlan plan_of(Access, const Input& x) {
  return plan_tiles(x.dim() / Access::width, vectors_at_once<typename Access::scalar_t, Access::width>, kThreads);
}

}  // namespace

void pointwise_loss_forward(Stream stream, Output loss, Output partial, Input x, Input target, Input weight, Input pos_weight, int64_t kind,
                            int64_t size) {
  constexpr auto name = "pointwise_loss_forward";
  if (partial) flatten(x, target, weight, pos_weight);
  else flatten(x, loss, target, weight, pos_weight);
  dispatch(x.dtype, partial ? access_bytes(x, target, weight, pos_weight) : access_bytes(loss, x, target, weight, pos_weight), [&](auto access) {
    using scalar_t = typename decltype(access)::scalar_t;
    using acc_t = acc_of<scalar_t>;
    constexpr int width = decltype(access)::width;
    const TilePlan plan = plan_of(access, x);
    const auto call = call_of(access, plan, x, target, weight, pos_weight);
    with_loss(kind, [&](auto which) {
      if (!partial) {
        launch(name, pointwise_loss_each<scalar_t, width, decltype(which)::value>, plan.blocks(plan.shares(x.rows())), plan.threads, 0,
               stream, call, data<scalar_t>(loss));
        return;
      }
      launch(name, pointwise_loss_sums<scalar_t, width, decltype(which)::value>, partial.rows(), plan.threads,
             group_bytes(plan.threads, sizeof(acc_t)), stream, call, data<acc_t>(partial), plan.blocks(ceil_div(x.rows(), plan.threads.y)));
      add_parts<scalar_t>(name, stream, data<scalar_t>(loss), nullptr, data<const acc_t>(partial), 1, partial.rows(), 1,
                          acc_t(1 / double(size)));
    });
  });
}

void pointwise_loss_backward(Stream stream, Output dx, Output dtarget, Input grad, Input x, Input target, Input weight, Input pos_weight,
                             int64_t kind, int64_t size) {
  const bool of_all = grad.dims == 1;
  Input each = of_all ? Input() : grad;
  flatten(x, dx, dtarget, each, target, weight, pos_weight);
  dispatch(x.dtype, access_bytes(dx, dtarget, each, x, target, weight, pos_weight), [&](auto access) {
    using scalar_t = typename decltype(access)::scalar_t;
    constexpr int width = decltype(access)::width;
    const TilePlan plan = plan_of(access, x);
    with_loss(kind, [&](auto which) {
      launch("pointwise_loss_backward", pointwise_loss_gradients<scalar_t, width, decltype(which)::value>,
             plan.blocks(plan.shares(x.rows())), plan.threads, 0, stream, call_of(access, plan, x, target, weight, pos_weight),
             data<scalar_t>(dx), data<scalar_t>(dtarget), data<const scalar_t>(grad), each.stride[0], of_all,
             acc_of<scalar_t>(1 / double(size)));
    });
  });
}

}  // namespace pylayers::cuda
