#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>

#include "autograd.h"
#include "common.h"
#include "norm.h"
#include "op.h"
#include "ops.h"

namespace pylayers {
namespace {

constexpr auto kOp = "rms_norm";

Normalisation norm(int64_t dims, double eps, double offset) { return {dims, eps, offset}; }

Tensor formula(const Tensor& input, const OptionalTensor& weight, int64_t dims, double eps, double offset) {
  return normalised(norm(dims, eps, offset), input, value(weight), {}, input.scalar_type());
}

using Pair = std::tuple<Tensor, Tensor>;

Pair backward_formula(const Tensor& grad, const Tensor& input, const OptionalTensor& weight, const Tensor&, int64_t dims, double eps,
                      double offset, std::array<bool, 2> mask) {
  auto [dx, dweight, none] = normalised_backward(norm(dims, eps, offset), grad, input, value(weight), {mask[0], mask[1], false});
  return {mask[0] ? dx.to(input.scalar_type()) : nothing(input), mask[1] ? dweight : nothing(input)};
}

// Outputs y and rstd (without elements unless it is wanted).
Pair allocate_forward(const Tensor& input, const OptionalTensor&, int64_t dims, double, double, bool save) {
  const auto dtype = accumulation_dtype(input.scalar_type());
  return {allocate_like(input), save ? allocate(input, rows_shape(input, dims), dtype) : nothing(input)};
}

Pair forward(const Tensor& input, const OptionalTensor& weight, int64_t dims, double eps, double offset, bool save) {
  auto outputs = allocate_forward(input, weight, dims, eps, offset, save);
  auto& [y, rstd] = outputs;
  const int64_t dim = row_length(input, dims);
  const Rows x = as_rows(input, dim);
  if (x.empty()) return outputs;
  const Tensor w = contiguous(weight);
  kernels::rms_norm_forward(registry::target(kOp, input), Argument::output(y, {x.rows, dim}),
                            save ? Argument::output(rstd, {x.rows}) : Argument(), x.input(), vector(w), eps, offset);
  return outputs;
}

Pair allocate_backward(const Tensor&, const Tensor& input, const OptionalTensor& weight, const Tensor&, int64_t, double, double,
                       std::array<bool, 2> mask) {
  return {mask[0] ? allocate_like(input) : nothing(input), mask[1] ? allocate_like(*weight) : nothing(input)};
}

Pair backward(const Tensor& grad, const Tensor& input, const OptionalTensor& weight, const Tensor& rstd, int64_t dims, double eps,
              double offset, std::array<bool, 2> mask) {
  auto outputs = allocate_backward(grad, input, weight, rstd, dims, eps, offset, mask);
  auto& [dx, dweight] = outputs;
  const int64_t dim = rstd.numel() ? input.numel() / rstd.numel() : 0;
  const Rows x = as_rows(input, dim), g = as_rows(grad, dim);
  if (x.empty()) {
    if (mask[1]) dweight.zero_();
    return outputs;
  }
  const Tensor w = contiguous(weight);
  const Tensor partial = mask[1] ? partial_sums(input, x.rows, dim) : Tensor();
  kernels::rms_norm_backward(registry::target(kOp, input), mask[0] ? Argument::output(dx, {x.rows, dim}) : Argument(),
                             mask[1] ? Argument::output(dweight, {dim}) : Argument(),
                             mask[1] ? Argument::output(partial, partial.sizes()) : Argument(), g.input(), x.input(), vector(w),
                             vector(rstd), offset);
  return outputs;
}

Op<decltype(rms_norm)> op;
Op<decltype(forward)> forward_op;
Op<decltype(backward)> backward_op;

const Differentiable kDifferentiable = {
    "pylayers::RMSNormBackward",
    [](at::TensorList inputs, Extras& extras, Tensors& saved) {
      auto [y, rstd] = forward_op(inputs[0], inputs[1], extras[0].toInt(), extras[1].toDouble(), extras[2].toDouble(), true);
      saved = {inputs[0], inputs[1], rstd};
      return y;
    },
    [](const Tensor& grad, const Tensors& saved, const Extras& extras, const std::vector<bool>& mask) -> Tensors {
      auto [dx, dweight] = backward_op(grad, saved[0], saved[1], saved[2], extras[0].toInt(), extras[1].toDouble(),
                                              extras[2].toDouble(), {mask[0], mask[1]});
      return {dx, dweight};
    }};

Tensor run(const Tensor& input, c10::SymIntArrayRef normalized_shape, const OptionalTensor& weight, std::optional<double> eps,
           double offset) {
  check_normalized(kOp, input, normalized_shape);
  check_parameter(kOp, "weight", value(weight), input, normalized_shape);
  const auto dims = static_cast<int64_t>(normalized_shape.size());
  const double epsilon = value_or_epsilon(eps, input);
  if (needs_formula(kOp, {&input, &value(weight)})) return formula(input, weight, dims, epsilon, offset);
  if (needs_gradient({&input, &value(weight)})) return apply(kDifferentiable, {input, value(weight)}, {dims, epsilon, offset});
  const at::AutoDispatchBelowADInplaceOrView guard;
  return std::get<0>(forward_op(input, weight, dims, epsilon, offset, false));
}

// As torch does under autocast: the dtype of the input decides.
Tensor autocast(const Tensor& input, c10::SymIntArrayRef normalized_shape, const OptionalTensor& weight, std::optional<double> eps,
                double offset) {
  const c10::impl::ExcludeDispatchKeyGuard guard(c10::autocast_dispatch_keyset);
  return rms_norm(input, normalized_shape, autocast_to(input.scalar_type(), weight, input), eps, offset);
}

}  // namespace

Tensor rms_norm(const Tensor& input, c10::SymIntArrayRef normalized_shape, const OptionalTensor& weight, std::optional<double> eps,
                double offset) {
  return op(input, normalized_shape, weight, eps, offset);
}

TORCH_LIBRARY_FRAGMENT(pylayers, m) {
  op.define_public(m, "rms_norm(Tensor input, SymInt[] normalized_shape, Tensor? weight=None, float? eps=None, float offset=0.0) -> Tensor",
                   run, autocast);
  forward_op.define_kernel(m, "rms_norm_forward(Tensor input, Tensor? weight, int dims, float eps, float offset, bool save) "
                              "-> (Tensor, Tensor)", forward, allocate_forward);
  backward_op.define_backward(m, kOp, "rms_norm_backward(Tensor grad, Tensor input, Tensor? weight, Tensor rstd, int dims, float eps, "
                                      "float offset, bool[2] mask) -> (Tensor, Tensor)",
                              backward, allocate_backward, backward_formula);
}

}  // namespace pylayers
