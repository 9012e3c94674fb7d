#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/frexp.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>

#include <cmath>

#include "../cuda/parts.h"
#include "autograd.h"
#include "common.h"
#include "op.h"
#include "ops.h"

namespace pylayers {
namespace {

constexpr auto kOp = "halve_until";

using Pair = std::tuple<Tensor, Tensor>;

// As torch compares a tensor with a number: in the tensor's dtype. What is too small for that counts as its smallest number.
double as_compared(double threshold, const Tensor& input) {
  if (input.scalar_type() == at::kDouble) return threshold;
  constexpr float least = std::numeric_limits<float>::denorm_min(), most = std::numeric_limits<float>::max();
  return std::clamp(static_cast<float>(std::min<double>(threshold, most)), least, most);
}

void check(const Tensor& input, double threshold) {
  check_floating(kOp, "input", input);
  TORCH_CHECK_VALUE(threshold > 0 && std::isfinite(threshold), kOp, ": threshold must be positive and finite, got ", threshold);
}

// k for sums S = total · 2^shift: mantissas are in [½, 1), so S · 2^−k ≤ threshold compares exponents, and where these are
// equal mantissas.
Tensor halvings(const Tensor& total, double shift, double threshold) {
  int exponent = 0;
  const double mantissa = std::frexp(threshold, &exponent);
  const auto [m, e] = at::frexp(total);
  return (e + (m.to(at::kDouble) > mantissa).to(e.scalar_type())).to(total.scalar_type()) + (shift - exponent);
}

// k, without a gradient, as a tensor without dimensions.
Tensor exponent_formula(const Tensor& input, double threshold) {
  const auto dtype = accumulation_dtype(input.scalar_type());
  const double shift = dtype == at::kDouble ? 512 : 64;
  const Tensor size = input.detach().to(dtype).abs();
  const Tensor total = size.sum(), scaled = (size * std::exp2(-shift)).sum();
  const Tensor k = at::where(total.isfinite(), halvings(total, 0, threshold), halvings(scaled, shift, threshold));
  return at::where(scaled.isfinite().logical_and(total > threshold), k, at::zeros_like(k));
}

// x · 2^−k in three factors, none of which underflows; only the last product may be subnormal, and is rounded once.
Tensor halved(const Tensor& input, const Tensor& exponent) {
  const auto dtype = accumulation_dtype(input.scalar_type());
  const double most = dtype == at::kDouble ? 1022 : 126;
  const Tensor k = exponent.to(dtype);
  const auto factor = [&](int i) { return (k - i * most).clamp(0, most).neg().exp2(); };
  return (input.to(dtype) * factor(2) * factor(1) * factor(0)).to(input.scalar_type());
}

Tensor formula(const Tensor& input, double threshold) { return halved(input, exponent_formula(input, threshold)); }
Tensor backward_formula(const Tensor& grad, const Tensor& exponent) { return halved(grad, exponent); }

Tensor number(const Tensor& like) { return at::empty({}, like.options().dtype(accumulation_dtype(like.scalar_type()))); }

// Outputs y and k.
Pair allocate_forward(const Tensor& input, double) { return {allocate_like(input), number(input)}; }

Pair forward(const Tensor& input, double threshold) {
  auto outputs = allocate_forward(input, threshold);
  auto& [y, exponent] = outputs;
  const int64_t count = input.numel();
  if (count == 0) {
    exponent.zero_();
    return outputs;
  }
  const Rows x = as_rows(input, count);
  const int64_t parts = splits_for_gpu(input) ? cuda_sum_parts(count) : (count + 16383) / 16384;
  const Tensor partial = at::empty({parts, 2}, exponent.options());
  kernels::halve_until_forward(registry::target(kOp, input), Argument::output(y, {1, count}), Argument::output(exponent, {1}),
                               Argument::output(partial, {parts, 2}), x.input(), threshold);
  return outputs;
}

Tensor allocate_backward(const Tensor& grad, const Tensor&) { return allocate_like(grad); }

Tensor backward(const Tensor& grad, const Tensor& exponent) {
  Tensor dx = allocate_backward(grad, exponent);
  const int64_t count = grad.numel();
  if (count == 0) return dx;
  const Rows g = as_rows(grad, count);
  kernels::halve_until_backward(registry::target(kOp, grad), Argument::output(dx, {1, count}), g.input(),
                                Argument::input(exponent, {1}));
  return dx;
}

Op<decltype(halve_until)> op;
Op<decltype(forward)> forward_op;
Op<decltype(backward)> backward_op;

const Differentiable kDifferentiable = {
    "pylayers::HalveUntilBackward",
    [](at::TensorList inputs, Extras& extras, Tensors& saved) {
      auto [y, exponent] = forward_op(inputs[0], extras[0].toDouble());
      saved = {exponent};
      return y;
    },
    [](const Tensor& grad, const Tensors& saved, const Extras&, const std::vector<bool>&) -> Tensors {
      return {backward_op(grad, saved[0])};
    }};

Tensor run(const Tensor& input, double threshold) {
  check(input, threshold);
  threshold = as_compared(threshold, input);
  if (needs_formula(kOp, {&input})) return formula(input, threshold);
  if (needs_gradient({&input})) return apply(kDifferentiable, {input}, {threshold});
  const at::AutoDispatchBelowADInplaceOrView guard;
  return std::get<0>(forward_op(input, threshold));
}

}  // namespace

Tensor halve_until(const Tensor& input, double threshold) { return op(input, threshold); }

TORCH_LIBRARY_FRAGMENT(pylayers, m) {
  op.define_public(m, "halve_until(Tensor input, float threshold=1.0) -> Tensor", run);
  forward_op.define_kernel(m, "halve_until_forward(Tensor input, float threshold) -> (Tensor, Tensor)", forward, allocate_forward);
  backward_op.define_backward(m, kOp, "halve_until_backward(Tensor grad, Tensor exponent) -> Tensor", backward, allocate_backward,
                              backward_formula);
}

}  // namespace pylayers
