// total = x + residual, y = total · rstd · (offset + weight), rstd = 1 / √(mean(total²) + eps) over the row, and its
// gradients. How work is split and what it moves: device/norm.cuh and device/norm_backward.cuh.

#include "device/add_norm.cuh"

namespace pylayers::cuda {

void add_rms_norm_forward(Stream stream, Output y, Output total, Output rstd, Input x, Input residual, Input weight,
                          double eps, double offset) {
  add_norm_forward<AddRmsNorm>("add_rms_norm_forward", stream, {y, total, {}, rstd, x, residual, weight, {}, eps, offset});
}

void add_rms_norm_backward(Stream stream, Output dx, Output dresidual, Output dweight, Output partial, Input grad,
                           Input dtotal, Input total, Input weight, Input rstd, double offset) {
  add_norm_backward<AddRmsNorm>("add_rms_norm_backward", stream,
                                {dx, dresidual, dweight, {}, partial, grad, dtotal, total, weight, {}, rstd, offset});
}

}  // namespace pylayers::cuda
