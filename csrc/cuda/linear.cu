// What follows the matrix product of a linear layer: y = activation(scale · (product + bias)), and its gradients
// dproduct = scale · grad · activation'(…), dbias = Σ_rows dproduct. The product itself is cuBLAS's.
//
// Forward: one number read and one written an element. Backward: two read and one written, with the sums of dbias in
// registers on the way; 8 bytes per part and column go through the partial sums.

#include "device/activation.cuh"
#include "device/column_sums.cuh"
#include "device/launch.cuh"
#include "device/tiles.cuh"

namespace pylayers::cuda {
namespace {

constexpr int kThreads = 256, kColumnLanes = 64;

template <class scalar_t>
struct Forward {
  scalar_t* y;  // may be product
  const scalar_t *product, *bias;
  int64_t rows, dim, tiles, y_stride, product_stride;
  acc_of<scalar_t> scale;
};

template <class scalar_t>
struct Backward {
  scalar_t* dproduct;
  acc_of<scalar_t>* partial;
  const scalar_t *grad, *saved, *bias;
  int64_t rows, dim, tiles, dproduct_stride, grad_stride, saved_stride;
  acc_of<scalar_t> scale;
};

template <class scalar_t, int width, Activation activation>
__global__ void __launch_bounds__(kThreads) linear_epilogue_forward_kernel(const Forward<scalar_t> args) {
  constexpr int vectors = vectors_at_once<scalar_t, width>;
  const int64_t count = args.dim / width;
  const Tile tile = this_tile(args.rows, args.tiles, vectors);
  Vector<scalar_t, width> bias[vectors];
  load(bias, args.bias, tile.index, args.bias ? count : 0);
  for (int64_t row = tile.row; row < tile.last; row += blockDim.y) {
    Vector<scalar_t, width> product[vectors];
    load(product, args.product + row * args.product_stride, tile.index, count);
#pragma unroll
    for (int v = 0; v < vectors; ++v) {
      const auto b = unpack(bias[v]);
      auto y = unpack(product[v]);
#pragma unroll
      for (int i = 0; i < width; ++i) y[i] = activate<scalar_t, activation>(args.scale * (y[i] + b[i]));
      store_one(args.y + row * args.y_stride, tile.index + v * blockDim.x, count, y);
    }
  }
}

template <class scalar_t, int width, Activation activation>
__global__ void __launch_bounds__(kThreads) linear_epilogue_backward_kernel(const Backward<scalar_t> args) {
  using acc_t = acc_of<scalar_t>;
  constexpr int rows = rows_at_once<scalar_t, width>;
  constexpr bool reads_saved = activation != Activation::none, from_product = !saves_output<activation>;
  const int64_t count = args.dim / width;
  const Tile tile = this_tile(args.rows, args.tiles, 1);
  const auto bias = unpack(load_one<width>(args.bias, tile.index, from_product && args.bias ? count : 0));
  Values<acc_t, width> sums[1] = {};
  for (int64_t first = tile.row; first < tile.last; first += rows * blockDim.y) {
    Vector<scalar_t, width> grad[rows], saved[rows];
#pragma unroll
    for (int r = 0; r < rows; ++r) {
      const int64_t row = first + r * blockDim.y, live = row < tile.last ? count : 0;
      grad[r] = load_one<width>(args.grad + row * args.grad_stride, tile.index, live);
      saved[r] = load_one<width>(args.saved + row * args.saved_stride, tile.index, reads_saved ? live : 0);
    }
#pragma unroll
    for (int r = 0; r < rows; ++r) {
      const int64_t row = first + r * blockDim.y, live = args.dproduct && row < tile.last ? count : 0;
      const auto s = unpack(saved[r]);
      auto d = unpack(grad[r]);
#pragma unroll
      for (int i = 0; i < width; ++i) {
        const acc_t x = from_product ? args.scale * (s[i] + bias[i]) : s[i];
        d[i] *= args.scale * derivative<scalar_t, activation>(x);
        sums[0][i] += d[i];
      }
      store_one(args.dproduct + row * args.dproduct_stride, tile.index, live, d);
    }
  }
  if (!args.partial) return;
  add_groups(sums);
  if (threadIdx.y == 0 && tile.index < count)
    store_sums(args.partial + tile.share * args.dim + tile.index * width, sums[0]);
}

using Activations = std::make_integer_sequence<int, int(Activation::sigmoid) + 1>;

template <class scalar_t, int width, int... activations>
auto forward_kernel(int64_t activation, std::integer_sequence<int, activations...>) {
  void (*const kernels[])(Forward<scalar_t>) = {
      linear_epilogue_forward_kernel<scalar_t, width, Activation(activations)>...};
  return kernels[activation];
}

template <class scalar_t, int width, int... activations>
auto backward_kernel(int64_t activation, std::integer_sequence<int, activations...>) {
  void (*const kernels[])(Backward<scalar_t>) = {
      linear_epilogue_backward_kernel<scalar_t, width, Activation(activations)>...};
  return kernels[activation];
}

// 16-bit pairs are left out: the kernels of seven activations would be built for them.
template <class Body>
void dispatch_epilogue(Dtype dtype, int bytes, const Body& body) {
  dispatch(dtype, bytes < 16 ? 1 : 16, [&](auto access) {
    if constexpr (decltype(access)::bytes != 4 || decltype(access)::width == 1) body(access);
  });
}

}  // namespace

void linear_epilogue_forward(Stream stream, Output y, Input product, Input bias, double scale, int64_t activation) {
  if (!bias) flatten(y, product);
  dispatch_epilogue(y.dtype, access_bytes(y, product, bias), [&](auto access) {
    using scalar_t = typename decltype(access)::scalar_t;
    constexpr int width = decltype(access)::width;
    const TilePlan plan = plan_tiles(y.dim() / width, vectors_at_once<scalar_t, width>, kThreads);
    launch("linear_epilogue_forward", forward_kernel<scalar_t, width>(activation, Activations{}),
           plan.blocks(plan.shares(y.rows())), plan.threads, 0, stream,
           Forward<scalar_t>{data<scalar_t>(y), data<const scalar_t>(product), data<const scalar_t>(bias), y.rows(),
                             y.dim(), plan.tiles, y.stride[0], product.stride[0], acc_of<scalar_t>(scale)});
  });
}

void linear_epilogue_backward(Stream stream, Output dproduct, Output dbias, Output partial, Input grad, Input saved,
                              Input bias, double scale, int64_t activation) {
  const int bytes = access_bytes(dproduct, partial, grad, saved, bias);
  dispatch_epilogue(grad.dtype, bytes, [&](auto access) {
    using scalar_t = typename decltype(access)::scalar_t;
    using acc_t = acc_of<scalar_t>;
    constexpr int width = decltype(access)::width;
    const TilePlan plan = plan_tiles(grad.dim() / width, 1, kColumnLanes);
    const int64_t shares = dbias ? partial.rows() : plan.shares(ceil_div(grad.rows(), rows_at_once<scalar_t, width>));
    launch("linear_epilogue_backward", backward_kernel<scalar_t, width>(activation, Activations{}), plan.blocks(shares),
           plan.threads, dbias ? group_bytes(plan.threads, width * sizeof(acc_t)) : 0, stream,
           Backward<scalar_t>{data<scalar_t>(dproduct), dbias ? data<acc_t>(partial) : nullptr,
                              data<const scalar_t>(grad), data<const scalar_t>(saved), data<const scalar_t>(bias),
                              grad.rows(), grad.dim(), plan.tiles, dproduct.stride[0], grad.stride[0],
                              saved.stride[0], acc_t(scale)});
  });
  if (dbias) add_parts("linear_epilogue_backward", stream, dbias, partial);
}

}  // namespace pylayers::cuda
