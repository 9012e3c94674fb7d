// y = x · rstd · (offset + weight), rstd = 1 / √(mean(x²) + eps) over the row, and its gradients. How work is split and
// what it moves: device/norm.cuh and device/norm_backward.cuh.

#include "device/norm_launch.cuh"

namespace pylayers::cuda {

void rms_norm_forward(Stream stream, Output y, Output rstd, Input x, Input weight, double eps, double offset) {
  dispatch(x.dtype, access_bytes(y, x, weight), [&](auto access) {
    launch_norm_forward<RmsNorm<typename decltype(access)::scalar_t>>("rms_norm_forward", access, stream,
                                                                      {y, {}, {}, rstd, x, {}, weight, {}, eps, offset});
  });
}

void rms_norm_backward(Stream stream, Output dx, Output dweight, Output partial, Input grad, Input x, Input weight,
                       Input rstd, double offset) {
  dispatch(x.dtype, access_bytes(dx, partial, grad, x, weight), [&](auto access) {
    launch_norm_backward<RmsNorm<typename decltype(access)::scalar_t>>(
        "rms_norm_backward", access, stream, {dx, {}, dweight, {}, partial, grad, {}, x, weight, {}, rstd, offset});
  });
}

}  // namespace pylayers::cuda
