#include "product.h"

#include <ATen/ops/addmm.h>
#include <ATen/ops/addmv.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/mul.h>

#include "../activation.h"

namespace pylayers {

Tensor flat(const Tensor& tensor) {
  // Sizes are given in full: -1 is ambiguous for empty tensors.
  const auto leading = tensor.sym_sizes().slice(0, tensor.dim() - 1);
  return tensor.reshape_symint({c10::multiply_integers(leading), tensor.sym_size(-1)});
}

// Matrix products of 16 bits on a CPU take many times as long for one row as those of vectors.
void multiply_to(const Tensor& out, const Tensor& a, const Tensor& b, double alpha, double beta) {
  Tensor to = out;
  const bool plain = alpha == 1 && beta == 0, narrow = out.scalar_type() == at::kBFloat16 || out.scalar_type() == at::kHalf;
  const bool vectors = narrow && out.is_cpu() && out.numel() && a.numel();
  if (vectors && plain && a.size(1) == 1) {
    at::mul_out(to, a, b);
  } else if (vectors && a.size(0) == 1 && b.stride(1) == 1) {
    Tensor row = out.select(0, 0);
    at::addmv_out(row, row, b.t(), a.select(0, 0), beta, alpha);
  } else {
    plain ? at::mm_out(to, a, b) : at::addmm_out(to, to, a, b, beta, alpha);
  }
}

Tensor product(const Target& target, const Tensor& a, const Tensor& b, double scale) {
  Tensor y = allocate(a, {a.sym_size(0), b.sym_size(0)}, a.scalar_type());
  if (kernels::linear_forward.has(target) && a.numel() && b.numel()) {
    kernels::linear_forward(target, Argument::output(y, y.sizes()), Argument(), matrix(a), matrix(b), Argument(), scale,
                            static_cast<int64_t>(Activation::none));
    return y;
  }
  multiply_to(y, a, b.t(), scale);
  return y;
}

}  // namespace pylayers
