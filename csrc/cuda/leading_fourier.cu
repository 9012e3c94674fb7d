// The half spectrum for the backward of leading_fourier: dspectrum [rows, samples / 2 + 1] = scale · grad and zeros behind
// it, all but coefficients 0 and samples / 2 halved, the imaginary parts of these two zero.
//
// A block takes a tile of columns and a share of the rows, a thread whole complex numbers: each is read once and
// written once. Rows start at multiples of 8 bytes only, so no access is wider than a number of float32 pairs.

#include "device/launch.cuh"
#include "device/tiles.cuh"

namespace pylayers::cuda {
namespace {

constexpr int kThreads = 256;

template <class scalar_t>
struct Backward {
  scalar_t* dspectrum;
  const scalar_t* grad;
  int64_t rows, given, dim, last, tiles, dspectrum_stride, grad_stride;  // last: coefficient samples / 2, or -1
  scalar_t scale;
};

template <class scalar_t>
__global__ void __launch_bounds__(kThreads) leading_fourier_backward_kernel(const Backward<scalar_t> args) {
  constexpr int pairs = vectors_at_once<scalar_t, 2>;
  const Tile tile = this_tile(args.rows, args.tiles, pairs);
  for (int64_t row = tile.row; row < tile.last; row += blockDim.y) {
    Vector<scalar_t, 2> grad[pairs];
    load(grad, args.grad + row * args.grad_stride, tile.index, args.given);
#pragma unroll
    for (int v = 0; v < pairs; ++v) {
      const int64_t index = tile.index + v * blockDim.x;
      const bool is_real = index == 0 || index == args.last;
      auto d = unpack(grad[v]);
      d[0] *= is_real ? args.scale : args.scale / 2;
      d[1] = is_real ? 0 : d[1] * (args.scale / 2);
      store_one(args.dspectrum + row * args.dspectrum_stride, index, args.dim, d);
    }
  }
}

template <class scalar_t>
void backward(Stream stream, Output dspectrum, Input grad, double scale, int64_t samples) {
  const int64_t dim = dspectrum.dim() / 2;
  const TilePlan plan = plan_tiles(dim, vectors_at_once<scalar_t, 2>, kThreads);
  launch("leading_fourier_backward", leading_fourier_backward_kernel<scalar_t>, plan.blocks(plan.shares(grad.rows())),
         plan.threads, 0, stream,
         Backward<scalar_t>{data<scalar_t>(dspectrum), data<const scalar_t>(grad), grad.rows(), grad.dim() / 2, dim,
                            samples % 2 ? -1 : samples / 2, plan.tiles, dspectrum.stride[0], grad.stride[0],
                            scalar_t(scale)});
}

}  // namespace

void leading_fourier_backward(Stream stream, Output dspectrum, Input grad, double scale, int64_t samples) {
  if (grad.dtype == Dtype::float64) return backward<double>(stream, dspectrum, grad, scale, samples);
  backward<float>(stream, dspectrum, grad, scale, samples);
}

}  // namespace pylayers::cuda
