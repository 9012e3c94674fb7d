// y = x · rstd · (offset + weight), rstd = 1 / √(mean(x²) + eps), and its backward.
#include "norm.h"

namespace pylayers::cpu::PYLAYERS_ISA {

void rms_norm_forward(Output y, Output rstd, Input x, Input weight, double eps, double offset) {
  dispatch(x.dtype, [&](auto type) {
    using scalar_t = decltype(type);
    norm_forward<Norm<scalar_t, scalar_t, false, false>>({y, {}, {}, rstd, x, {}, weight, {}, eps, offset});
  });
}

void rms_norm_backward(Output dx, Output dweight, Output partial, Input grad, Input x, Input weight, Input rstd, double offset) {
  dispatch(x.dtype, [&](auto type) {
    using scalar_t = decltype(type);
    norm_backward<Norm<scalar_t, scalar_t, false, false>>(
        {dx, {}, dweight, {}, partial, grad, {}, x, weight, {}, rstd, offset});
  });
}

}  // namespace pylayers::cpu::PYLAYERS_ISA
