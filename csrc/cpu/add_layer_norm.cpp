// total = x + residual, y = (total − mean) · rstd · weight + bias, rstd = 1 / √(mean((total − mean)²) + eps), and its backward.
#include "norm.h"

namespace pylayers::cpu::PYLAYERS_ISA {

void add_layer_norm_forward(Output y, Output total, Output mean, Output rstd, Input x, Input residual, Input weight, Input bias,
                            double eps) {
  add_norm_forward<true>({y, total, mean, rstd, x, residual, weight, bias, eps, 0});
}

void add_layer_norm_backward(Output dx, Output dresidual, Output dweight, Output dbias, Output partial, Input grad, Input dtotal,
                             Input total, Input weight, Input mean, Input rstd) {
  add_norm_backward<true>({dx, dresidual, dweight, dbias, partial, grad, dtotal, total, weight, mean, rstd, 0});
}

}  // namespace pylayers::cpu::PYLAYERS_ISA
