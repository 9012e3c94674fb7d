#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>

#include "autograd.h"
#include "common.h"
#include "norm.h"
#include "op.h"
#include "ops.h"

namespace pylayers {
namespace {

constexpr auto kOp = "add_layer_norm";

using Pair = std::tuple<Tensor, Tensor>;
using Four = std::tuple<Tensor, Tensor, Tensor, Tensor>;

Normalisation norm(int64_t dims, double eps) { return {dims, eps, 0, true}; }

Pair formula(const Tensor& input, const Tensor& residual, const OptionalTensor& weight, const OptionalTensor& bias, int64_t dims,
             double eps, at::ScalarType dtype) {
  const Tensor total = added(input, residual, dtype);
  return {normalised(norm(dims, eps), total, value(weight), value(bias), input.scalar_type()), total};
}

Four backward_formula(const Tensor& grad, const OptionalTensor& dtotal, const Tensor& total, const OptionalTensor& weight,
                      const Tensor&, const Tensor&, int64_t dims, double eps, std::array<bool, 4> mask) {
  auto [d, dweight, dbias] =
      normalised_backward(norm(dims, eps), grad, total, value(weight), {mask[0] || mask[1], mask[2], mask[3]});
  if (d.defined() && value(dtotal).defined()) d = d + dtotal->to(d.scalar_type());
  return {mask[0] ? d.to(grad.scalar_type()) : nothing(grad), mask[1] ? d : nothing(grad), mask[2] ? dweight : nothing(grad),
          mask[3] ? dbias : nothing(grad)};
}

// Outputs y, total = input + residual, and mean and rstd (without elements unless they are wanted). The dtype of total is a number: as
// a dtype it would become another one in what AOTInductor of torch 2.11 packs.
Four allocate_forward(const Tensor& input, const Tensor&, const OptionalTensor&, const OptionalTensor&, int64_t dims, double,
                      int64_t dtype, bool save) {
  const auto statistic = [&] {
    return save ? allocate(input, rows_shape(input, dims), accumulation_dtype(input.scalar_type())) : nothing(input);
  };
  return {allocate_like(input), allocate(input, input.sym_sizes(), static_cast<at::ScalarType>(dtype)), statistic(), statistic()};
}

Four forward(const Tensor& input, const Tensor& residual, const OptionalTensor& weight, const OptionalTensor& bias, int64_t dims,
             double eps, int64_t dtype, bool save) {
  auto outputs = allocate_forward(input, residual, weight, bias, dims, eps, dtype, save);
  auto& [y, total, mean, rstd] = outputs;
  const int64_t dim = row_length(input, dims);
  const Rows x = as_rows(input, dim), r = as_rows(residual, dim);
  if (x.empty()) return outputs;
  const Tensor w = contiguous(weight), b = contiguous(bias);
  const auto statistic = [&](const Tensor& one) { return save ? Argument::output(one, {x.rows}) : Argument(); };
  kernels::add_layer_norm_forward(registry::target(kOp, input), Argument::output(y, {x.rows, dim}),
                                  Argument::output(total, {x.rows, dim}), statistic(mean), statistic(rstd), x.input(), r.input(),
                                  vector(w), vector(b), eps);
  return outputs;
}

// Outputs the gradient of input + residual in the dtype of grad and in that which is computed in, those of weight and bias.
Four allocate_backward(const Tensor& grad, const OptionalTensor&, const Tensor& total, const OptionalTensor&, const Tensor&,
                       const Tensor&, int64_t dims, double, std::array<bool, 4> mask) {
  const auto own = grad.scalar_type();
  const auto sum = [&](bool wanted) { return wanted ? allocate(grad, row_shape(total, dims), own) : nothing(grad); };
  return {mask[0] ? allocate(grad, total.sym_sizes(), own) : nothing(grad),
          mask[1] ? allocate(grad, total.sym_sizes(), accumulation_dtype(own)) : nothing(grad), sum(mask[2]), sum(mask[3])};
}

Four backward(const Tensor& grad, const OptionalTensor& dtotal, const Tensor& total, const OptionalTensor& weight,
              const Tensor& mean, const Tensor& rstd, int64_t dims, double eps, std::array<bool, 4> mask) {
  auto outputs = allocate_backward(grad, dtotal, total, weight, mean, rstd, dims, eps, mask);
  auto& [dx, dresidual, dweight, dbias] = outputs;
  const int64_t dim = row_length(total, dims);
  const Rows x = as_rows(total, dim), g = as_rows(grad, dim), d = value(dtotal).defined() ? as_rows(*dtotal, dim) : Rows();
  if (x.empty()) {
    if (mask[2]) dweight.zero_();
    if (mask[3]) dbias.zero_();
    return outputs;
  }
  const Tensor w = contiguous(weight);
  const int sums = mask[2] + mask[3];
  const Tensor partial = sums ? partial_sums(grad, x.rows, dim, sums) : Tensor();
  const auto matrix = [&](bool wanted, const Tensor& one) { return wanted ? Argument::output(one, {x.rows, dim}) : Argument(); };
  const auto sum = [&](bool wanted, const Tensor& one) { return wanted ? Argument::output(one, {dim}) : Argument(); };
  kernels::add_layer_norm_backward(registry::target(kOp, grad), matrix(mask[0], dx), matrix(mask[1], dresidual),
                                   sum(mask[2], dweight), sum(mask[3], dbias),
                                   sums ? Argument::output(partial, partial.sizes()) : Argument(), g.input(), d.input(), x.input(),
                                   vector(w), vector(mean), vector(rstd));
  return outputs;
}

Op<decltype(add_layer_norm)> op;
Op<decltype(forward)> forward_op;
Op<decltype(backward)> backward_op;

enum Place { kDims, kEps, kInputDtype, kResidualDtype, kTotalDtype };

const DifferentiableToSeveral kDifferentiable = {
    "pylayers::AddLayerNormBackward",
    [](at::TensorList inputs, Extras& extras, Tensors& saved) -> Tensors {
      auto [y, total, mean, rstd] = forward_op(inputs[0], inputs[1], inputs[2], inputs[3], extras[kDims].toInt(),
                                               extras[kEps].toDouble(), extras[kTotalDtype].toInt(), true);
      saved = {total, inputs[2], mean, rstd};
      return {y, total};
    },
    [](const Tensors& grads, const Tensors& saved, const Extras& extras, const std::vector<bool>& mask) -> Tensors {
      const auto input = extras[kInputDtype].toScalarType(), residual = extras[kResidualDtype].toScalarType();
      if (!grads[0].defined()) return {in_dtype(grads[1], input), in_dtype(grads[1], residual), {}, {}};
      const bool once = input == residual;  // the two gradients are one tensor
      auto [dx, dresidual, dweight, dbias] =
          backward_op(grads[0], grads[1], saved[0], saved[1], saved[2], saved[3], extras[kDims].toInt(), extras[kEps].toDouble(),
                      {mask[0] || (once && mask[1]), !once && mask[1], mask[2], mask[3]});
      return {dx, once ? dx : dresidual, dweight, dbias};
    }};

Pair run(const Tensor& input, const Tensor& residual, c10::SymIntArrayRef normalized_shape, const OptionalTensor& weight,
         const OptionalTensor& bias, double eps, std::optional<at::ScalarType> residual_dtype) {
  check_normalized(kOp, input, normalized_shape);
  check_parameter(kOp, "weight", value(weight), input, normalized_shape);
  check_parameter(kOp, "bias", value(bias), input, normalized_shape);
  const auto dtype = check_residual(kOp, input, residual, residual_dtype);
  const auto dims = static_cast<int64_t>(normalized_shape.size());
  const auto tensors = {&input, &residual, &value(weight), &value(bias)};
  if (needs_formula(kOp, tensors)) return formula(input, residual, weight, bias, dims, eps, dtype);
  if (needs_gradient(tensors)) {
    auto outputs = apply(kDifferentiable, {input, residual, value(weight), value(bias)},
                         {dims, eps, input.scalar_type(), residual.scalar_type(), dtype});
    return {outputs[0], outputs[1]};
  }
  const at::AutoDispatchBelowADInplaceOrView guard;
  auto [y, total, mean, rstd] = forward_op(input, residual, weight, bias, dims, eps, static_cast<int64_t>(dtype), false);
  return {y, total};
}

// The dtype of the input decides; the residual stays as it is where it can.
Pair autocast(const Tensor& input, const Tensor& residual, c10::SymIntArrayRef normalized_shape, const OptionalTensor& weight,
              const OptionalTensor& bias, double eps, std::optional<at::ScalarType> residual_dtype) {
  const c10::impl::ExcludeDispatchKeyGuard guard(c10::autocast_dispatch_keyset);
  return add_layer_norm(input, autocast_residual(residual, input), normalized_shape,
                        autocast_to(input.scalar_type(), weight, input), autocast_to(input.scalar_type(), bias, input), eps,
                        residual_dtype);
}

}  // namespace

Pair add_layer_norm(const Tensor& input, const Tensor& residual, c10::SymIntArrayRef normalized_shape, const OptionalTensor& weight,
                    const OptionalTensor& bias, double eps, std::optional<at::ScalarType> residual_dtype) {
  return op(input, residual, normalized_shape, weight, bias, eps, residual_dtype);
}

TORCH_LIBRARY_FRAGMENT(pylayers, m) {
  op.define_public(m, "add_layer_norm(Tensor input, Tensor residual, SymInt[] normalized_shape, Tensor? weight=None, "
                      "Tensor? bias=None, float eps=1e-05, ScalarType? residual_dtype=None) -> (Tensor, Tensor)", run, autocast);
  forward_op.define_kernel(m, "add_layer_norm_forward(Tensor input, Tensor residual, Tensor? weight, Tensor? bias, int dims, float eps, "
                              "int dtype, bool save) -> (Tensor, Tensor, Tensor, Tensor)", forward, allocate_forward);
  backward_op.define_backward(m, kOp, "add_layer_norm_backward(Tensor grad, Tensor? dtotal, Tensor total, Tensor? weight, Tensor mean, "
                                      "Tensor rstd, int dims, float eps, bool[4] mask) -> (Tensor, Tensor, Tensor, Tensor)",
                              backward, allocate_backward, backward_formula);
}

}  // namespace pylayers
