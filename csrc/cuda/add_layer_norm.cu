// total = x + residual, y = (total − mean) · rstd · weight + bias, rstd = 1 / √(mean((total − mean)²) + eps) over the row,
// and its gradients. How work is split and what it moves: device/norm.cuh and device/norm_backward.cuh.

#include "device/add_norm.cuh"

namespace pylayers::cuda {

void add_layer_norm_forward(Stream stream, Output y, Output total, Output mean, Output rstd, Input x, Input residual,
                            Input weight, Input bias, double eps) {
  add_norm_forward<AddLayerNorm>("add_layer_norm_forward", stream,
                                 {y, total, mean, rstd, x, residual, weight, bias, eps, 0});
}

void add_layer_norm_backward(Stream stream, Output dx, Output dresidual, Output dweight, Output dbias, Output partial,
                             Input grad, Input dtotal, Input total, Input weight, Input mean, Input rstd) {
  add_norm_backward<AddLayerNorm>("add_layer_norm_backward", stream,
                                  {dx, dresidual, dweight, dbias, partial, grad, dtotal, total, weight, mean, rstd, 0});
}

}  // namespace pylayers::cuda
