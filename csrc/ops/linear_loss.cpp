#include "linear_loss.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/sum.h>

namespace pylayers {

Tensor LinearSums::rows(Range range, Scratch& memory) const {
  if (!dx.defined()) return dx;
  const bool itself = dx.scalar_type() == accumulation_dtype(dx.scalar_type());
  return itself ? rows_of(dx, range) : memory.block(dx, {range.count(), dx.size(1)});
}

void LinearSums::add(Chunk& chunk, const Tensor& d, const Tensor& w, int64_t position, const Tensor& own, bool first) const {
  chunk.add_gradients(d, w, own, position == 0, dw.defined() ? dw.select(1, position) : Tensor(), first);
  if (!db.defined()) return;
  Tensor to = db.select(0, position);
  first ? at::sum_out(to, d, 0) : to.add_(d.sum(0));
}

void LinearSums::take(Range range, const Tensor& own) const {
  if (own.defined() && own.scalar_type() != dx.scalar_type()) rows_of(dx, range).copy_(own);
}

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
