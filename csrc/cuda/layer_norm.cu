// y = (x − mean) · rstd · weight + bias, rstd = 1 / √(mean((x − mean)²) + eps) over the row, and its gradients. How work
// is split and what it moves: device/norm.cuh and device/norm_backward.cuh.

#include "device/norm_launch.cuh"

namespace pylayers::cuda {

void layer_norm_forward(Stream stream, Output y, Output mean, Output rstd, Input x, Input weight, Input bias, double eps) {
  dispatch(x.dtype, access_bytes(y, x, weight, bias), [&](auto access) {
    launch_norm_forward<LayerNorm<typename decltype(access)::scalar_t>>(
        "layer_norm_forward", access, stream, {y, {}, mean, rstd, x, {}, weight, bias, eps, 0});
  });
}

void layer_norm_backward(Stream stream, Output dx, Output dweight, Output dbias, Output partial, Input grad, Input x,
                         Input weight, Input mean, Input rstd) {
  dispatch(x.dtype, access_bytes(dx, partial, grad, x, weight), [&](auto access) {
    launch_norm_backward<LayerNorm<typename decltype(access)::scalar_t>>(
        "layer_norm_backward", access, stream,
        {dx, {}, dweight, dbias, partial, grad, {}, x, weight, mean, rstd, 0});
  });
}

}  // namespace pylayers::cuda
