#include "product.h"

#include <ATen/ops/addmm.h>
#include <ATen/ops/mm.h>

#include "../activation.h"

namespace pylayers {

Tensor flat(const Tensor& tensor) {
  // Sizes are given in full: -1 is ambiguous for empty tensors.
  const auto leading = tensor.sym_sizes().slice(0, tensor.dim() - 1);
  return tensor.reshape_symint({c10::multiply_integers(leading), tensor.sym_size(-1)});
}

Tensor product(const Target& target, const Tensor& a, const Tensor& b, double scale) {
  Tensor y = allocate(a, {a.sym_size(0), b.sym_size(0)}, a.scalar_type());
  if (kernels::linear_forward.has(target) && a.numel() && b.numel()) {
    kernels::linear_forward(target, Argument::output(y, y.sizes()), Argument(), matrix(a), matrix(b), Argument(), scale,
                            static_cast<int64_t>(Activation::none));
    return y;
  }
  return scale == 1 ? at::mm_out(y, a, b.t()) : at::addmm_out(y, y, a, b.t(), /*beta=*/0, /*alpha=*/scale);
}

}  // namespace pylayers
