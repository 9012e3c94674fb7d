// y = activation(gate) · up, and its gradients: dgate = grad · up · activation'(gate), dup = grad · activation(gate).
// Without up the gate takes its place, and dgate is the sum of both.
//
// Elementwise: 3 numbers move per element forward (2 without up), 5 backward (3), where the activation is computed again.
// Matrices whose rows follow each other without a gap are one flat row; otherwise a block takes a tile of columns and a
// share of the rows.

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

template <class scalar_t, int width, Activation activation>
__global__ void __launch_bounds__(kThreads) gate_forward_kernel(const Forward<scalar_t> args) {
  constexpr int vectors = vectors_at_once<scalar_t, width>;
  const int64_t count = args.dim / width;
  const Tile tile = this_tile(args.rows, args.tiles, vectors);
  for (int64_t row = tile.row; row < tile.last; row += blockDim.y) {
    Vector<scalar_t, width> gate[vectors], up[vectors];
    load(gate, args.gate + row * args.gate_stride, tile.index, count);
    load(up, args.up + row * args.up_stride, tile.index, args.up ? count : 0);
#pragma unroll
    for (int v = 0; v < vectors; ++v) {
      const auto g = unpack(gate[v]);
      auto y = args.up ? unpack(up[v]) : g;
#pragma unroll
      for (int i = 0; i < width; ++i) y[i] *= activate<scalar_t, activation>(g[i]);
      store_one(args.y + row * args.y_stride, tile.index + v * blockDim.x, count, y);
    }
  }
}

template <class scalar_t, int width, Activation activation>
__global__ void __launch_bounds__(kThreads) gate_backward_kernel(const Backward<scalar_t> args) {
  constexpr int vectors = vectors_at_once<scalar_t, width>;
  const int64_t count = args.dim / width;
  const Tile tile = this_tile(args.rows, args.tiles, vectors);
  for (int64_t row = tile.row; row < tile.last; row += blockDim.y) {
    Vector<scalar_t, width> grad[vectors], gate[vectors], up[vectors];
    load(grad, args.grad + row * args.grad_stride, tile.index, count);
    load(gate, args.gate + row * args.gate_stride, tile.index, count);
    load(up, args.up + row * args.up_stride, tile.index, args.up ? count : 0);
#pragma unroll
    for (int v = 0; v < vectors; ++v) {
      const int64_t index = tile.index + v * blockDim.x;
      const auto g = unpack(gate[v]);
      auto dgate = args.up ? unpack(up[v]) : g, dup = unpack(grad[v]);
#pragma unroll
      for (int i = 0; i < width; ++i) {
        dgate[i] *= dup[i] * derivative<scalar_t, activation>(g[i]);
        dup[i] *= activate<scalar_t, activation>(g[i]);
        if (!args.up) dgate[i] += dup[i];
      }
      store_one(args.dgate + row * args.dgate_stride, index, args.dgate ? count : 0, dgate);
      store_one(args.dup + row * args.dup_stride, index, args.dup ? count : 0, dup);
    }
  }
}

// body(std::integral_constant<int, activation>{})
template <class Body>
void dispatch_activation(int64_t activation, const Body& body) {
  const std::integer_sequence<int, int(Activation::relu), int(Activation::gelu), int(Activation::gelu_tanh),
                              int(Activation::silu)> gates;
  dispatch_int(gates, int(activation), body);
}

}  // namespace

void gate_forward(Stream stream, Output y, Input gate, Input up, int64_t activation) {
  flatten(y, gate, up);
  dispatch(y.dtype, access_bytes(y, gate, up), [&](auto access) {
    using scalar_t = typename decltype(access)::scalar_t;
    constexpr int width = decltype(access)::width;
    const TilePlan plan = plan_tiles(y.dim() / width, vectors_at_once<scalar_t, width>, kThreads);
    dispatch_activation(activation, [&](auto kind) {
      launch("gate_forward", gate_forward_kernel<scalar_t, width, Activation{decltype(kind)::value}>,
             plan.blocks(plan.shares(y.rows())), plan.threads, 0, stream,
             Forward<scalar_t>{data<scalar_t>(y), data<const scalar_t>(gate), data<const scalar_t>(up), y.rows(),
                               y.dim(), plan.tiles, y.stride[0], gate.stride[0], up.stride[0]});
    });
  });
}

void gate_backward(Stream stream, Output dgate, Output dup, Input grad, Input gate, Input up, int64_t activation) {
  flatten(gate, dgate, dup, grad, up);
  dispatch(gate.dtype, access_bytes(dgate, dup, grad, gate, up), [&](auto access) {
    using scalar_t = typename decltype(access)::scalar_t;
    constexpr int width = decltype(access)::width;
    const TilePlan plan = plan_tiles(gate.dim() / width, vectors_at_once<scalar_t, width>, kThreads);
    dispatch_activation(activation, [&](auto kind) {
      launch("gate_backward", gate_backward_kernel<scalar_t, width, Activation{decltype(kind)::value}>,
             plan.blocks(plan.shares(gate.rows())), plan.threads, 0, stream,
             Backward<scalar_t>{data<scalar_t>(dgate), data<scalar_t>(dup), data<const scalar_t>(grad),
                                data<const scalar_t>(gate), data<const scalar_t>(up), gate.rows(), gate.dim(),
                                plan.tiles, dgate.stride[0], dup.stride[0], grad.stride[0], gate.stride[0],
                                up.stride[0]});
    });
  });
}

}  // namespace pylayers::cuda
