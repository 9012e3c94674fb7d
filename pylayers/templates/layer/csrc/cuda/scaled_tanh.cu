// y = weight · tanh(x) + bias, and its gradients dx = grad · weight · (1 − tanh²(x)), dweight = Σ_rows grad · tanh(x),
// dbias = Σ_rows grad.
//
// A block takes a tile of columns and a contiguous share of the rows; a thread takes the same columns in each of its rows, in
// accesses of up to 16 bytes, so that it reads weight and bias once. Forward reads x and writes y, backward reads grad and x
// and writes dx, each once; the sums stay in registers, and 16 bytes per part and column go through the partial sums.
#include <cuda/device/activation.cuh>
#include <cuda/device/column_sums.cuh>
#include <cuda/device/launch.cuh>
#include <cuda/device/tiles.cuh>

namespace pylayers::cuda {
namespace {

constexpr int kThreads = 256, kColumnLanes = 64;

template <class scalar_t>
struct Forward {
  scalar_t* y;
  const scalar_t *x, *weight, *bias;
  int64_t rows, dim, tiles, y_stride, x_stride;
};

template <class scalar_t>
struct Backward {
  scalar_t* dx;
  acc_of<scalar_t> *partial_weight, *partial_bias;
  const scalar_t *grad, *x, *weight;
  int64_t rows, dim, tiles, dx_stride, grad_stride, x_stride;
};

template <class scalar_t, int width>
__global__ void __launch_bounds__(kThreads) scaled_tanh_forward_kernel(const Forward<scalar_t> args) {
  const int64_t count = args.dim / width;  // vectors of a row
  const Tile tile = this_tile(args.rows, args.tiles, 1);
  const auto w = unpack(load_one<width>(args.weight, tile.index, count));
  const auto b = unpack(load_one<width>(args.bias, tile.index, count));
  for (int64_t row = tile.row; row < tile.last; row += blockDim.y) {
    auto y = unpack(load_one<width>(args.x + row * args.x_stride, tile.index, count));
#pragma unroll
    for (int i = 0; i < width; ++i) y[i] = w[i] * activate<scalar_t, Activation::tanh>(y[i]) + b[i];
    store_one(args.y + row * args.y_stride, tile.index, count, y);
  }
}

template <class scalar_t, int width>
__global__ void __launch_bounds__(kThreads) scaled_tanh_backward_kernel(const Backward<scalar_t> args) {
  using acc_t = acc_of<scalar_t>;
  const int64_t count = args.dim / width;
  const Tile tile = this_tile(args.rows, args.tiles, 1);
  const auto w = unpack(load_one<width>(args.weight, tile.index, count));
  Values<acc_t, width> sums[2] = {};  // of dweight and dbias
  for (int64_t row = tile.row; row < tile.last; row += blockDim.y) {
    const auto x = unpack(load_one<width>(args.x + row * args.x_stride, tile.index, count));
    auto d = unpack(load_one<width>(args.grad + row * args.grad_stride, tile.index, count));
#pragma unroll
    for (int i = 0; i < width; ++i) {
      const acc_t t = activate<scalar_t, Activation::tanh>(x[i]);
      sums[0][i] += d[i] * t;
      sums[1][i] += d[i];
      d[i] *= w[i] * (1 - t * t);
    }
    store_one(args.dx + row * args.dx_stride, tile.index, args.dx ? count : 0, d);
  }
  if (!args.partial_weight && !args.partial_bias) return;
  add_groups(sums);
  if (threadIdx.y > 0 || tile.index >= count) return;
  const int64_t place = tile.share * args.dim + tile.index * width;
  if (args.partial_weight) store_sums(args.partial_weight + place, sums[0]);
  if (args.partial_bias) store_sums(args.partial_bias + place, sums[1]);
}

}  // namespace

void scaled_tanh_forward(Stream stream, Output y, Input x, Input weight, Input bias) {
  dispatch(x.dtype, access_bytes(y, x, weight, bias), [&](auto access) {
    using scalar_t = typename decltype(access)::scalar_t;
    constexpr int width = decltype(access)::width;
    const TilePlan plan = plan_tiles(x.dim() / width, 1, kThreads);
    launch("scaled_tanh_forward", scaled_tanh_forward_kernel<scalar_t, width>, plan.blocks(plan.shares(x.rows())), plan.threads, 0,
           stream,
           Forward<scalar_t>{data<scalar_t>(y), data<const scalar_t>(x), data<const scalar_t>(weight), data<const scalar_t>(bias),
                             x.rows(), x.dim(), plan.tiles, y.stride[0], x.stride[0]});
  });
}

void scaled_tanh_backward(Stream stream, Output dx, Output dweight, Output dbias, Output partial_weight, Output partial_bias,
                          Input grad, Input x, Input weight) {
  dispatch(x.dtype, access_bytes(dx, partial_weight, partial_bias, grad, x, weight), [&](auto access) {
    using scalar_t = typename decltype(access)::scalar_t;
    using acc_t = acc_of<scalar_t>;
    constexpr int width = decltype(access)::width;
    const TilePlan plan = plan_tiles(x.dim() / width, 1, kColumnLanes);
    const bool sums = dweight || dbias;
    const int64_t shares = dweight ? partial_weight.rows() : dbias ? partial_bias.rows() : plan.shares(x.rows());
    launch("scaled_tanh_backward", scaled_tanh_backward_kernel<scalar_t, width>, plan.blocks(shares), plan.threads,
           sums ? group_bytes(plan.threads, 2 * width * sizeof(acc_t)) : 0, stream,
           Backward<scalar_t>{data<scalar_t>(dx), data<acc_t>(partial_weight), data<acc_t>(partial_bias),
                              data<const scalar_t>(grad), data<const scalar_t>(x), data<const scalar_t>(weight), x.rows(),
                              x.dim(), plan.tiles, dx.stride[0], grad.stride[0], x.stride[0]});
  });
  if (dweight) add_parts("scaled_tanh_backward", stream, dweight, partial_weight);
  if (dbias) add_parts("scaled_tanh_backward", stream, dbias, partial_bias);
}

}  // namespace pylayers::cuda
