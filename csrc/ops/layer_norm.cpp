#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>

#include "autograd.h"
#include "common.h"
#include "norm.h"
#include "op.h"
#include "ops.h"

namespace pylayers {
namespace {

constexpr auto kOp = "layer_norm";

using Three = std::tuple<Tensor, Tensor, Tensor>;

Normalisation norm(int64_t dims, double eps) { return {dims, eps, 0, true}; }

Tensor formula(const Tensor& input, const OptionalTensor& weight, const OptionalTensor& bias, int64_t dims, double eps) {
  return normalised(norm(dims, eps), input, value(weight), value(bias), input.scalar_type());
}

Three backward_formula(const Tensor& grad, const Tensor& input, const OptionalTensor& weight, const Tensor&, const Tensor&,
                       int64_t dims, double eps, std::array<bool, 3> mask) {
  auto [dx, dweight, dbias] = normalised_backward(norm(dims, eps), grad, input, value(weight), mask);
  return {mask[0] ? dx.to(input.scalar_type()) : nothing(input), mask[1] ? dweight : nothing(input),
          mask[2] ? dbias : nothing(input)};
}

// Outputs y, and mean and rstd (without elements unless they are wanted).
Three allocate_forward(const Tensor& input, const OptionalTensor&, const OptionalTensor&, int64_t dims, double, bool save) {
  const auto statistic = [&] {
    return save ? allocate(input, rows_shape(input, dims), accumulation_dtype(input.scalar_type())) : nothing(input);
  };
  return {allocate_like(input), statistic(), statistic()};
}

Three forward(const Tensor& input, const OptionalTensor& weight, const OptionalTensor& bias, int64_t dims, double eps, bool save) {
  auto outputs = allocate_forward(input, weight, bias, dims, eps, save);
  auto& [y, mean, rstd] = outputs;
  const int64_t dim = row_length(input, dims);
  const Rows x = as_rows(input, dim);
  if (x.empty()) return outputs;
  const Tensor w = contiguous(weight), b = contiguous(bias);
  const auto statistic = [&](const Tensor& one) { return save ? Argument::output(one, {x.rows}) : Argument(); };
  kernels::layer_norm_forward(registry::target(kOp, input), Argument::output(y, {x.rows, dim}), statistic(mean), statistic(rstd),
                              x.input(), vector(w), vector(b), eps);
  return outputs;
}

Three allocate_backward(const Tensor&, const Tensor& input, const OptionalTensor&, const Tensor&, const Tensor&, int64_t dims,
                        double, std::array<bool, 3> mask) {
  const auto sum = [&](bool wanted) {
    return wanted ? allocate(input, row_shape(input, dims), input.scalar_type()) : nothing(input);
  };
  return {mask[0] ? allocate_like(input) : nothing(input), sum(mask[1]), sum(mask[2])};
}

Three backward(const Tensor& grad, const Tensor& input, const OptionalTensor& weight, const Tensor& mean, const Tensor& rstd,
               int64_t dims, double eps, std::array<bool, 3> mask) {
  auto outputs = allocate_backward(grad, input, weight, mean, rstd, dims, eps, mask);
  auto& [dx, dweight, dbias] = outputs;
  const int64_t dim = row_length(input, dims);
  const Rows x = as_rows(input, dim), g = as_rows(grad, dim);
  if (x.empty()) {
    if (mask[1]) dweight.zero_();
    if (mask[2]) dbias.zero_();
    return outputs;
  }
  const Tensor w = contiguous(weight);
  const int sums = mask[1] + mask[2];
  const Tensor partial = sums ? partial_sums(input, x.rows, dim, sums) : Tensor();
  const auto sum = [&](bool wanted, const Tensor& one) { return wanted ? Argument::output(one, {dim}) : Argument(); };
  kernels::layer_norm_backward(registry::target(kOp, input), mask[0] ? Argument::output(dx, {x.rows, dim}) : Argument(),
                               sum(mask[1], dweight), sum(mask[2], dbias),
                               sums ? Argument::output(partial, partial.sizes()) : Argument(), g.input(), x.input(), vector(w),
                               vector(mean), vector(rstd));
  return outputs;
}

Op<decltype(layer_norm)> op;
Op<decltype(forward)> forward_op;
Op<decltype(backward)> backward_op;

const Differentiable kDifferentiable = {
    "pylayers::LayerNormBackward",
    [](at::TensorList inputs, Extras& extras, Tensors& saved) {
      auto [y, mean, rstd] = forward_op(inputs[0], inputs[1], inputs[2], extras[0].toInt(), extras[1].toDouble(), true);
      saved = {inputs[0], inputs[1], mean, rstd};
      return y;
    },
    [](const Tensor& grad, const Tensors& saved, const Extras& extras, const std::vector<bool>& mask) -> Tensors {
      auto [dx, dweight, dbias] = backward_op(grad, saved[0], saved[1], saved[2], saved[3], extras[0].toInt(),
                                              extras[1].toDouble(), {mask[0], mask[1], mask[2]});
      return {dx, dweight, dbias};
    }};

Tensor run(const Tensor& input, c10::SymIntArrayRef normalized_shape, const OptionalTensor& weight, const OptionalTensor& bias,
           double eps) {
  check_normalized(kOp, input, normalized_shape);
  check_parameter(kOp, "weight", value(weight), input, normalized_shape);
  check_parameter(kOp, "bias", value(bias), input, normalized_shape);
  const auto dims = static_cast<int64_t>(normalized_shape.size());
  if (needs_formula(kOp, {&input, &value(weight), &value(bias)})) return formula(input, weight, bias, dims, eps);
  if (needs_gradient({&input, &value(weight), &value(bias)}))
    return apply(kDifferentiable, {input, value(weight), value(bias)}, {dims, eps});
  const at::AutoDispatchBelowADInplaceOrView guard;
  return std::get<0>(forward_op(input, weight, bias, dims, eps, false));
}

// As torch does under autocast: float32 on a GPU; on a CPU the dtype of the input decides.
Tensor autocast(const Tensor& input, c10::SymIntArrayRef normalized_shape, const OptionalTensor& weight, const OptionalTensor& bias,
                double eps) {
  const c10::impl::ExcludeDispatchKeyGuard guard(c10::autocast_dispatch_keyset);
  const auto dtype = input.is_cuda() ? accumulation_dtype(input.scalar_type()) : input.scalar_type();
  return layer_norm(autocast_to(dtype, input, input), normalized_shape, autocast_to(dtype, weight, input),
                    autocast_to(dtype, bias, input), eps);
}

}  // namespace

Tensor layer_norm(const Tensor& input, c10::SymIntArrayRef normalized_shape, const OptionalTensor& weight, const OptionalTensor& bias,
                  double eps) {
  return op(input, normalized_shape, weight, bias, eps);
}

TORCH_LIBRARY_FRAGMENT(pylayers, m) {
  op.define_public(m, "layer_norm(Tensor input, SymInt[] normalized_shape, Tensor? weight=None, Tensor? bias=None, float eps=1e-05) "
                      "-> Tensor", run, autocast);
  forward_op.define_kernel(m, "layer_norm_forward(Tensor input, Tensor? weight, Tensor? bias, int dims, float eps, bool save) "
                              "-> (Tensor, Tensor, Tensor)", forward, allocate_forward);
  backward_op.define_backward(m, kOp, "layer_norm_backward(Tensor grad, Tensor input, Tensor? weight, Tensor mean, Tensor rstd, "
                                      "int dims, float eps, bool[3] mask) -> (Tensor, Tensor, Tensor)",
                              backward, allocate_backward, backward_formula);
}

}  // namespace pylayers
