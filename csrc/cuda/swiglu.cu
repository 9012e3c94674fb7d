// y = silu(gate) · up, silu(a) = a · σ(a), and its gradients. With s = σ(gate):
// dgate = grad · up · s · (1 + gate · (1 − s)), dup = grad · gate · s.
//
// Elementwise: 3 numbers move per element forward, 5 backward, where σ is computed again. Matrices whose rows follow
// each other without a gap are one flat row; otherwise a block takes a tile of columns and a share of the rows.

#include "device/activation.cuh"
#include "device/launch.cuh"
#include "device/tiles.cuh"

namespace pylayers::cuda {
namespace {

constexpr int kThreads = 256;

template <class scalar_t>
struct Forward {
  scalar_t* y;
  const scalar_t *gate, *up;
  int64_t rows, dim, tiles, y_stride, gate_stride, up_stride;
};

template <class scalar_t>
struct Backward {
  scalar_t *dgate, *dup;
  const scalar_t *grad, *gate, *up;
  int64_t rows, dim, tiles, dgate_stride, dup_stride, grad_stride, gate_stride, up_stride;
};

template <class scalar_t, int width>
__global__ void __launch_bounds__(kThreads) swiglu_forward_kernel(const Forward<scalar_t> args) {
  constexpr int vectors = vectors_at_once<scalar_t, width>;
  const int64_t count = args.dim / width;
  const Tile tile = this_tile(args.rows, args.tiles, vectors);
  for (int64_t row = tile.row; row < tile.last; row += blockDim.y) {
    Vector<scalar_t, width> gate[vectors], up[vectors];
    load(gate, args.gate + row * args.gate_stride, tile.index, count);
    load(up, args.up + row * args.up_stride, tile.index, count);
#pragma unroll
    for (int v = 0; v < vectors; ++v) {
      const auto g = unpack(gate[v]);
      auto y = unpack(up[v]);
#pragma unroll
      for (int i = 0; i < width; ++i) y[i] *= g[i] * sigmoid<scalar_t>(g[i]);
      store_one(args.y + row * args.y_stride, tile.index + v * blockDim.x, count, y);
    }
  }
}

template <class scalar_t, int width>
__global__ void __launch_bounds__(kThreads) swiglu_backward_kernel(const Backward<scalar_t> args) {
  constexpr int vectors = vectors_at_once<scalar_t, width>;
  const int64_t count = args.dim / width;
  const Tile tile = this_tile(args.rows, args.tiles, vectors);
  for (int64_t row = tile.row; row < tile.last; row += blockDim.y) {
    Vector<scalar_t, width> grad[vectors], gate[vectors], up[vectors];
    load(grad, args.grad + row * args.grad_stride, tile.index, count);
    load(gate, args.gate + row * args.gate_stride, tile.index, count);
    load(up, args.up + row * args.up_stride, tile.index, count);
#pragma unroll
    for (int v = 0; v < vectors; ++v) {
      const auto g = unpack(gate[v]);
      auto dgate = unpack(up[v]), dup = unpack(grad[v]);
#pragma unroll
      for (int i = 0; i < width; ++i) {
        const auto s = sigmoid<scalar_t>(g[i]);
        dgate[i] *= dup[i] * s * (1 + g[i] * one_minus_sigmoid<scalar_t>(g[i], s));
        dup[i] *= g[i] * s;
      }
      store_one(args.dgate + row * args.dgate_stride, tile.index + v * blockDim.x, count, dgate);
      store_one(args.dup + row * args.dup_stride, tile.index + v * blockDim.x, count, dup);
    }
  }
}

}  // namespace

void swiglu_forward(Stream stream, Output y, Input gate, Input up) {
  flatten(y, gate, up);
  dispatch(y.dtype, access_bytes(y, gate, up), [&](auto access) {
    using scalar_t = typename decltype(access)::scalar_t;
    constexpr int width = decltype(access)::width;
    const TilePlan plan = plan_tiles(y.dim() / width, vectors_at_once<scalar_t, width>, kThreads);
    launch("swiglu_forward", swiglu_forward_kernel<scalar_t, width>, plan.blocks(plan.shares(y.rows())),
           plan.threads, 0, stream,
           Forward<scalar_t>{data<scalar_t>(y), data<const scalar_t>(gate), data<const scalar_t>(up), y.rows(), y.dim(),
                             plan.tiles, y.stride[0], gate.stride[0], up.stride[0]});
  });
}

void swiglu_backward(Stream stream, Output dgate, Output dup, Input grad, Input gate, Input up) {
  flatten(dgate, dup, grad, gate, up);
  dispatch(grad.dtype, access_bytes(dgate, dup, grad, gate, up), [&](auto access) {
    using scalar_t = typename decltype(access)::scalar_t;
    constexpr int width = decltype(access)::width;
    const TilePlan plan = plan_tiles(grad.dim() / width, vectors_at_once<scalar_t, width>, kThreads);
    launch("swiglu_backward", swiglu_backward_kernel<scalar_t, width>, plan.blocks(plan.shares(grad.rows())),
           plan.threads, 0, stream,
           Backward<scalar_t>{data<scalar_t>(dgate), data<scalar_t>(dup), data<const scalar_t>(grad),
                              data<const scalar_t>(gate), data<const scalar_t>(up), grad.rows(), grad.dim(), plan.tiles,
                              dgate.stride[0], dup.stride[0], grad.stride[0], gate.stride[0], up.stride[0]});
  });
}

}  // namespace pylayers::cuda
