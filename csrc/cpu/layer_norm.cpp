// y = (x − mean) · rstd · weight + bias, rstd = 1 / √(mean((x − mean)²) + eps), and its backward.
#include "norm.h"

namespace pylayers::cpu::PYLAYERS_ISA {

void layer_norm_forward(Output y, Output mean, Output rstd, Input x, Input weight, Input bias, double eps) {
  dispatch(x.dtype, [&](auto type) {
    using scalar_t = decltype(type);
    norm_forward<Norm<scalar_t, scalar_t, true, false>>({y, {}, mean, rstd, x, {}, weight, bias, eps, 0});
  });
}

void layer_norm_backward(Output dx, Output dweight, Output dbias, Output partial, Input grad, Input x, Input weight, Input mean,
                         Input rstd) {
  dispatch(x.dtype, [&](auto type) {
    using scalar_t = decltype(type);
    norm_backward<Norm<scalar_t, scalar_t, true, false>>(
        {dx, {}, dweight, dbias, partial, grad, {}, x, weight, mean, rstd, 0});
  });
}

}  // namespace pylayers::cpu::PYLAYERS_ISA
