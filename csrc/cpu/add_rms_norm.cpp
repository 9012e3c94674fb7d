// total = x + residual, y = total · rstd · (offset + weight), rstd = 1 / √(mean(total²) + eps), and its backward.
#include "norm.h"

namespace pylayers::cpu::PYLAYERS_ISA {

void add_rms_norm_forward(Output y, Output total, Output rstd, Input x, Input residual, Input weight, double eps, double offset) {
  add_norm_forward<false>({y, total, {}, rstd, x, residual, weight, {}, eps, offset});
}

void add_rms_norm_backward(Output dx, Output dresidual, Output dweight, Output partial, Input grad, Input dtotal, Input total,
                           Input weight, Input rstd, double offset) {
  add_norm_backward<false>({dx, dresidual, dweight, {}, partial, grad, dtotal, total, weight, {}, rstd, offset});
}

}  // namespace pylayers::cpu::PYLAYERS_ISA
