// What is true of scaled_tanh on every device: schema, checks, allocation, gradients, autocast.
#include "scaled_tanh.h"

#include <ATen/TensorOperators.h>
#include <ops/autograd.h>
#include <ops/common.h>
#include <ops/op.h>
#include <table.h>

namespace pylayers {
namespace {

constexpr auto kOp = "scaled_tanh";

void check(const Tensor& input, const Tensor& weight, const Tensor& bias) {
  check_floating(kOp, "input", input);
  TORCH_CHECK_VALUE(input.dim() > 0, kOp, ": input must have at least one dimension, got shape []");
  const auto check_vector = [&](const char* name, const Tensor& vector) {
    TORCH_CHECK_VALUE(vector.dim() == 1 && vector.sym_size(0) == input.sym_size(-1), kOp, ": ", name, " must have shape [",
                      input.sym_size(-1), "] (the last dimension of input), got ", vector.sym_sizes());
    check_matches(kOp, name, vector, "input", input);
  };
  check_vector("weight", weight);
  check_vector("bias", bias);
}

// The definition in ATen: for torch.func, forward-mode AD and gradients of gradients.
Tensor formula(const Tensor& input, const Tensor& weight, const Tensor& bias) {
  const auto dtype = accumulation_dtype(input.scalar_type());
  return (weight.to(dtype) * input.to(dtype).tanh() + bias.to(dtype)).to(input.scalar_type());
}

using Gradients = std::tuple<Tensor, Tensor, Tensor>;
using Mask = std::array<bool, 3>;  // which gradients are asked for: of input, weight, bias

Gradients backward_formula(const Tensor& grad, const Tensor& input, const Tensor& weight, Mask mask) {
  const auto dtype = accumulation_dtype(input.scalar_type());
  const Tensor g = grad.to(dtype), t = input.to(dtype).tanh();
  Gradients gradients = {nothing(input), nothing(input), nothing(input)};
  auto& [dx, dweight, dbias] = gradients;
  if (mask[0]) dx = (g * weight.to(dtype) * (1 - t * t)).to(input.scalar_type());
  if (mask[1]) dweight = (g * t).sum_to_size(weight.sizes()).to(input.scalar_type());
  if (mask[2]) dbias = g.sum_to_size(weight.sizes()).to(input.scalar_type());
  return gradients;
}

Tensor allocate_forward(const Tensor& input, const Tensor&, const Tensor&) { return allocate_like(input); }

Tensor forward(const Tensor& input, const Tensor& weight, const Tensor& bias) {
  Tensor y = allocate_like(input);
  const Rows x = as_rows(input, input.size(-1));
  if (x.empty()) return y;
  const Tensor w = weight.contiguous(), b = bias.contiguous();
  kernels::scaled_tanh_forward(registry::target(kOp, input), Argument::output(y, {x.rows, x.dim}), x.input(), vector(w), vector(b));
  return y;
}

Gradients allocate_backward(const Tensor&, const Tensor& input, const Tensor& weight, Mask mask) {
  return {mask[0] ? allocate_like(input) : nothing(input), mask[1] ? allocate_like(weight) : nothing(input),
          mask[2] ? allocate_like(weight) : nothing(input)};
}

Gradients backward(const Tensor& grad, const Tensor& input, const Tensor& weight, Mask mask) {
  Gradients gradients = allocate_backward(grad, input, weight, mask);
  auto& [dx, dweight, dbias] = gradients;
  const int64_t dim = input.size(-1);
  const Rows x = as_rows(input, dim), g = as_rows(grad, dim);
  if (x.empty()) {
    if (mask[1]) dweight.zero_();
    if (mask[2]) dbias.zero_();
    return gradients;
  }
  const Tensor w = weight.contiguous();
  const Tensor partial_weight = mask[1] ? partial_sums(input, x.rows, dim) : Tensor();
  const Tensor partial_bias = mask[2] ? partial_sums(input, x.rows, dim) : Tensor();
  const auto output = [](bool asked, const Tensor& tensor, at::IntArrayRef size) {
    return asked ? Argument::output(tensor, size) : Argument();
  };
  const int64_t parts = mask[1] ? partial_weight.size(0) : mask[2] ? partial_bias.size(0) : 0;
  kernels::scaled_tanh_backward(registry::target(kOp, input), output(mask[0], dx, {x.rows, dim}), output(mask[1], dweight, {dim}),
                                output(mask[2], dbias, {dim}), output(mask[1], partial_weight, {parts, dim}),
                                output(mask[2], partial_bias, {parts, dim}), g.input(), x.input(), vector(w));
  return gradients;
}

Op<decltype(call_scaled_tanh)> op("scaled_tanh");
Op<decltype(forward)> forward_op("scaled_tanh");
Op<decltype(backward)> backward_op("scaled_tanh");

const Differentiable kDifferentiable = {
    "scaled_tanh::ScaledTanhBackward",  // shown in grad_fn
    [](at::TensorList inputs, Extras&, Tensors& saved) {
      saved = {inputs[0], inputs[1]};
      return forward_op(inputs[0], inputs[1], inputs[2]);
    },
    [](const Tensor& grad, const Tensors& saved, const Extras&, const std::vector<bool>& mask) -> Tensors {
      auto [dx, dweight, dbias] = backward_op(grad, saved[0], saved[1], {mask[0], mask[1], mask[2]});
      return {dx, dweight, dbias};
    }};

Tensor run(const Tensor& input, const Tensor& weight, const Tensor& bias) {
  check(input, weight, bias);
  if (needs_formula(kOp, {&input, &weight, &bias})) return formula(input, weight, bias);
  if (needs_gradient({&input, &weight, &bias})) return apply(kDifferentiable, {input, weight, bias});
  const at::AutoDispatchBelowADInplaceOrView guard;
  return forward_op(input, weight, bias);
}

// The dtype of the input decides.
Tensor autocast(const Tensor& input, const Tensor& weight, const Tensor& bias) {
  const c10::impl::ExcludeDispatchKeyGuard guard(c10::autocast_dispatch_keyset);
  const auto dtype = input.scalar_type();
  return call_scaled_tanh(input, autocast_to(dtype, weight, input), autocast_to(dtype, bias, input));
}

}  // namespace

Tensor call_scaled_tanh(const Tensor& input, const Tensor& weight, const Tensor& bias) { return op(input, weight, bias); }

TORCH_LIBRARY(scaled_tanh, m) {
  op.define_public(m, "scaled_tanh(Tensor input, Tensor weight, Tensor bias) -> Tensor", run, autocast);
  forward_op.define_kernel(m, "scaled_tanh_forward(Tensor input, Tensor weight, Tensor bias) -> Tensor", forward, allocate_forward);
  backward_op.define_backward(m, kOp, "scaled_tanh_backward(Tensor grad, Tensor input, Tensor weight, bool[3] mask) "
                                      "-> (Tensor, Tensor, Tensor)", backward, allocate_backward, backward_formula);
}

}  // namespace pylayers
