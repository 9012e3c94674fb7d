#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>

#include "autograd.h"
#include "common.h"
#include "norm.h"
#include "op.h"
#include "ops.h"

namespace pylayers {
namespace {

constexpr auto kOp = "add_rms_norm";

using Pair = std::tuple<Tensor, Tensor>;
using Three = std::tuple<Tensor, Tensor, Tensor>;

Normalisation norm(int64_t dims, double eps, double offset) { return {dims, eps, offset}; }

Pair formula(const Tensor& input, const Tensor& residual, const OptionalTensor& weight, int64_t dims, double eps, double offset,
             at::ScalarType dtype) {
  const Tensor total = added(input, residual, dtype);
  return {normalised(norm(dims, eps, offset), total, value(weight), {}, input.scalar_type()), total};
}

Three backward_formula(const Tensor& grad, const OptionalTensor& dtotal, const Tensor& total, const OptionalTensor& weight,
                       const Tensor&, int64_t dims, double eps, double offset, std::array<bool, 3> mask) {
  auto [d, dweight, none] = normalised_backward(norm(dims, eps, offset), grad, total, value(weight),
                                                {mask[0] || mask[1], mask[2], false});
  if (d.defined() && value(dtotal).defined()) d = d + dtotal->to(d.scalar_type());
  return {mask[0] ? d.to(grad.scalar_type()) : nothing(grad), mask[1] ? d : nothing(grad), mask[2] ? dweight : nothing(grad)};
}

// Outputs y, total = input + residual, and rstd (without elements unless it is wanted). The dtype of total is a number: as a dtype it
// would become another one in what AOTInductor of torch 2.11 packs.
Three allocate_forward(const Tensor& input, const Tensor&, const OptionalTensor&, int64_t dims, double, double, int64_t dtype,
                       bool save) {
  const auto acc = accumulation_dtype(input.scalar_type());
  return {allocate_like(input), allocate(input, input.sym_sizes(), static_cast<at::ScalarType>(dtype)),
          save ? allocate(input, rows_shape(input, dims), acc) : nothing(input)};
}

Three forward(const Tensor& input, const Tensor& residual, const OptionalTensor& weight, int64_t dims, double eps, double offset,
              int64_t dtype, bool save) {
  auto outputs = allocate_forward(input, residual, weight, dims, eps, offset, dtype, save);
  auto& [y, total, rstd] = outputs;
  const int64_t dim = row_length(input, dims);
  const Rows x = as_rows(input, dim), r = as_rows(residual, dim);
  if (x.empty()) return outputs;
  const Tensor w = contiguous(weight);
  kernels::add_rms_norm_forward(registry::target(kOp, input), Argument::output(y, {x.rows, dim}),
                                Argument::output(total, {x.rows, dim}), save ? Argument::output(rstd, {x.rows}) : Argument(),
                                x.input(), r.input(), vector(w), eps, offset);
  return outputs;
}

// Outputs the gradient of input + residual in the dtype of grad and in that which is computed in, and that of weight.
Three allocate_backward(const Tensor& grad, const OptionalTensor&, const Tensor& total, const OptionalTensor&, const Tensor&,
                        int64_t dims, double, double, std::array<bool, 3> mask) {
  const auto own = grad.scalar_type();
  return {mask[0] ? allocate(grad, total.sym_sizes(), own) : nothing(grad),
          mask[1] ? allocate(grad, total.sym_sizes(), accumulation_dtype(own)) : nothing(grad),
          mask[2] ? allocate(grad, row_shape(total, dims), own) : nothing(grad)};
}

Three backward(const Tensor& grad, const OptionalTensor& dtotal, const Tensor& total, const OptionalTensor& weight,
               const Tensor& rstd, int64_t dims, double eps, double offset, std::array<bool, 3> mask) {
  auto outputs = allocate_backward(grad, dtotal, total, weight, rstd, dims, eps, offset, mask);
  auto& [dx, dresidual, dweight] = outputs;
  const int64_t dim = row_length(total, dims);
  const Rows x = as_rows(total, dim), g = as_rows(grad, dim), d = value(dtotal).defined() ? as_rows(*dtotal, dim) : Rows();
  if (x.empty()) {
    if (mask[2]) dweight.zero_();
    return outputs;
  }
  const Tensor w = contiguous(weight);
  const Tensor partial = mask[2] ? partial_sums(grad, x.rows, dim) : Tensor();
  const auto matrix = [&](bool wanted, const Tensor& one) { return wanted ? Argument::output(one, {x.rows, dim}) : Argument(); };
  kernels::add_rms_norm_backward(registry::target(kOp, grad), matrix(mask[0], dx), matrix(mask[1], dresidual),
                                 mask[2] ? Argument::output(dweight, {dim}) : Argument(),
                                 mask[2] ? Argument::output(partial, partial.sizes()) : Argument(), g.input(), d.input(), x.input(),
                                 vector(w), vector(rstd), offset);
  return outputs;
}

Op<decltype(add_rms_norm)> op;
Op<decltype(forward)> forward_op;
Op<decltype(backward)> backward_op;

enum Place { kDims, kEps, kOffset, kInputDtype, kResidualDtype, kTotalDtype };

const DifferentiableToSeveral kDifferentiable = {
    "pylayers::AddRMSNormBackward",
    [](at::TensorList inputs, Extras& extras, Tensors& saved) -> Tensors {
      auto [y, total, rstd] = forward_op(inputs[0], inputs[1], inputs[2], extras[kDims].toInt(), extras[kEps].toDouble(),
                                         extras[kOffset].toDouble(), extras[kTotalDtype].toInt(), true);
      saved = {total, inputs[2], rstd};
      return {y, total};
    },
    [](const Tensors& grads, const Tensors& saved, const Extras& extras, const std::vector<bool>& mask) -> Tensors {
      const auto input = extras[kInputDtype].toScalarType(), residual = extras[kResidualDtype].toScalarType();
      if (!grads[0].defined()) return {in_dtype(grads[1], input), in_dtype(grads[1], residual), {}};
      const bool once = input == residual;  // the two gradients are one tensor
      auto [dx, dresidual, dweight] =
          backward_op(grads[0], grads[1], saved[0], saved[1], saved[2], extras[kDims].toInt(), extras[kEps].toDouble(),
                      extras[kOffset].toDouble(), {mask[0] || (once && mask[1]), !once && mask[1], mask[2]});
      return {dx, once ? dx : dresidual, dweight};
    }};

Pair run(const Tensor& input, const Tensor& residual, c10::SymIntArrayRef normalized_shape, const OptionalTensor& weight,
         std::optional<double> eps, double offset, std::optional<at::ScalarType> residual_dtype) {
  check_normalized(kOp, input, normalized_shape);
  check_parameter(kOp, "weight", value(weight), input, normalized_shape);
  const auto dtype = check_residual(kOp, input, residual, residual_dtype);
  const auto dims = static_cast<int64_t>(normalized_shape.size());
  const double epsilon = value_or_epsilon(eps, input);
  if (needs_formula(kOp, {&input, &residual, &value(weight)})) return formula(input, residual, weight, dims, epsilon, offset, dtype);
  if (needs_gradient({&input, &residual, &value(weight)})) {
    auto outputs = apply(kDifferentiable, {input, residual, value(weight)},
                         {dims, epsilon, offset, input.scalar_type(), residual.scalar_type(), dtype});
    return {outputs[0], outputs[1]};
  }
  const at::AutoDispatchBelowADInplaceOrView guard;
  auto [y, total, none] = forward_op(input, residual, weight, dims, epsilon, offset, static_cast<int64_t>(dtype), false);
  return {y, total};
}

// The dtype of the input decides, as for rms_norm; the residual stays as it is where it can.
Pair autocast(const Tensor& input, const Tensor& residual, c10::SymIntArrayRef normalized_shape, const OptionalTensor& weight,
              std::optional<double> eps, double offset, std::optional<at::ScalarType> residual_dtype) {
  const c10::impl::ExcludeDispatchKeyGuard guard(c10::autocast_dispatch_keyset);
  return add_rms_norm(input, autocast_residual(residual, input), normalized_shape,
                      autocast_to(input.scalar_type(), weight, input), eps, offset, residual_dtype);
}

}  // namespace

Pair add_rms_norm(const Tensor& input, const Tensor& residual, c10::SymIntArrayRef normalized_shape, const OptionalTensor& weight,
                  std::optional<double> eps, double offset, std::optional<at::ScalarType> residual_dtype) {
  return op(input, residual, normalized_shape, weight, eps, offset, residual_dtype);
}

TORCH_LIBRARY_FRAGMENT(pylayers, m) {
  op.define_public(m, "add_rms_norm(Tensor input, Tensor residual, SymInt[] normalized_shape, Tensor? weight=None, float? eps=None, "
                      "float offset=0.0, ScalarType? residual_dtype=None) -> (Tensor, Tensor)", run, autocast);
  forward_op.define_kernel(m, "add_rms_norm_forward(Tensor input, Tensor residual, Tensor? weight, int dims, float eps, float offset, "
                              "int dtype, bool save) -> (Tensor, Tensor, Tensor)", forward, allocate_forward);
  backward_op.define_backward(m, kOp, "add_rms_norm_backward(Tensor grad, Tensor? dtotal, Tensor total, Tensor? weight, Tensor rstd, "
                                      "int dims, float eps, float offset, bool[3] mask) -> (Tensor, Tensor, Tensor)",
                              backward, allocate_backward, backward_formula);
}

}  // namespace pylayers
