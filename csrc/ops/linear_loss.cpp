#include "linear_loss.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/mul.h>

namespace pylayers {

void scale_to(const Tensor& to, const Tensor& from, const Tensor& factor) {
  constexpr int64_t numbers = 1 << 20;
  Tensor a = to.flatten();
  const Tensor b = from.reshape({-1});
  if (a.scalar_type() == b.scalar_type()) return void(at::mul_out(a, b, factor));
  for (int64_t i = 0; i < pieces(a.numel(), numbers); ++i) {
    const Range range = piece(a.numel(), numbers, i);
    a.narrow(0, range.first, range.count()).copy_(b.narrow(0, range.first, range.count()) * factor);
  }
}

}  // namespace pylayers
