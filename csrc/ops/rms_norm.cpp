#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>

#include "autograd.h"
#include "common.h"
#include "op.h"
#include "ops.h"

namespace pylayers {
namespace {

constexpr auto kOp = "rms_norm";

void check(const Tensor& input, c10::SymIntArrayRef normalized_shape, const Tensor& weight) {
  check_floating(kOp, "input", input);
  const auto count = static_cast<int64_t>(normalized_shape.size());
  TORCH_CHECK_VALUE(count > 0, kOp, ": normalized_shape must name at least one dimension, got ()");
  TORCH_CHECK_VALUE(input.dim() >= count && input.sym_sizes().slice(input.dim() - count).equals(normalized_shape), kOp,
                    ": input must end in the dimensions normalized_shape (", normalized_shape, "), got shape ", input.sym_sizes());
  if (!weight.defined()) return;
  TORCH_CHECK_VALUE(weight.sym_sizes().equals(normalized_shape), kOp, ": weight must have shape ", normalized_shape,
                    " (normalized_shape), got ", weight.sym_sizes());
  check_matches(kOp, "weight", weight, "input", input);
}

double value_or_epsilon(std::optional<double> eps, const Tensor& input) {
  if (eps) return *eps;
  return input.scalar_type() == at::kDouble ? std::numeric_limits<double>::epsilon() : std::numeric_limits<float>::epsilon();
}

std::vector<int64_t> trailing(int64_t dims) {
  std::vector<int64_t> axes(dims);
  for (int64_t i = 0; i < dims; ++i) axes[i] = i - dims;
  return axes;
}

Tensor scale(const OptionalTensor& weight, double offset, at::ScalarType dtype) {
  return value(weight).defined() ? weight->to(dtype) + offset : Tensor();
}

Tensor formula(const Tensor& input, const OptionalTensor& weight, int64_t dims, double eps, double offset) {
  const auto dtype = accumulation_dtype(input.scalar_type());
  const Tensor x = input.to(dtype);
  const Tensor w = scale(weight, offset, dtype);
  const Tensor n = x * (x.square().mean(trailing(dims), true) + eps).rsqrt();
  return (w.defined() ? n * w : n).to(input.scalar_type());
}

using Pair = std::tuple<Tensor, Tensor>;

Pair backward_formula(const Tensor& grad, const Tensor& input, const OptionalTensor& weight, const Tensor&, int64_t dims, double eps,
                      double offset, std::array<bool, 2> mask) {
  const auto dtype = accumulation_dtype(input.scalar_type());
  const Tensor x = input.to(dtype), g = grad.to(dtype), w = scale(weight, offset, dtype);
  const Tensor rstd = (x.square().mean(trailing(dims), true) + eps).rsqrt();
  const Tensor n = x * rstd;
  Tensor dx = nothing(input), dweight = nothing(input);
  if (mask[0]) {
    const Tensor gw = w.defined() ? g * w : g;
    dx = (rstd * (gw - n * (gw * n).mean(trailing(dims), true))).to(input.scalar_type());
  }
  if (mask[1]) dweight = (g * n).sum_to_size(weight->sizes()).to(input.scalar_type());
  return {dx, dweight};
}

// Outputs y and rstd (without elements unless it is wanted).
Pair allocate_forward(const Tensor& input, const OptionalTensor&, int64_t dims, double, double, bool save) {
  const auto rows = input.sym_sizes().slice(0, input.dim() - dims);
  return {allocate_like(input), save ? allocate(input, rows, accumulation_dtype(input.scalar_type())) : nothing(input)};
}

Pair forward(const Tensor& input, const OptionalTensor& weight, int64_t dims, double eps, double offset, bool save) {
  auto outputs = allocate_forward(input, weight, dims, eps, offset, save);
  auto& [y, rstd] = outputs;
  const int64_t dim = c10::multiply_integers(input.sizes().slice(input.dim() - dims));
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
  check(input, normalized_shape, value(weight));
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
