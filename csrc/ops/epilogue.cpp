#include "epilogue.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/gelu_backward.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/silu.h>

#include "autograd.h"
#include "op.h"
#include "product.h"

namespace pylayers {
namespace {

constexpr auto kOp = "linear";

// activation'(scale · (product + bias)) from the output or from the product, as differentiable operations.
Tensor derivative(const Tensor& saved, const OptionalTensor& bias, double scale, Activation activation) {
  const auto dtype = accumulation_dtype(saved.scalar_type());
  const Tensor y = saved.to(dtype);
  if (activation == Activation::relu) return (y > 0).to(dtype);
  if (activation == Activation::tanh) return 1 - y * y;
  if (activation == Activation::sigmoid) return y * (1 - y);
  const Tensor x = (value(bias).defined() ? y + bias->to(dtype) : y) * scale;
  if (activation == Activation::silu) {
    const Tensor s = x.sigmoid();
    return s * (1 + x * (1 - s));
  }
  return at::gelu_backward(at::ones_like(x), x, activation == Activation::gelu_tanh ? "tanh" : "none");
}

Pair allocate_backward(const Tensor& grad, const Tensor&, const OptionalTensor&, double, int64_t, std::array<bool, 2> mask) {
  return {allocate_like(grad), mask[1] ? allocate(grad, {grad.sym_size(-1)}, grad.scalar_type()) : nothing(grad)};
}

Tensor allocate_forward(const Tensor& product, const OptionalTensor&, double, int64_t) { return allocate_like(product); }

Tensor forward(const Tensor& product, const OptionalTensor& bias, double scale, int64_t activation) {
  Tensor y = allocate_like(product);
  run_epilogue(registry::target(kOp, product), y, product, bias, scale, activation);
  return y;
}

// An op of its own, so that autograd frees the product before it computes the gradients of input and weight, as it does for
// separate layers.
Op<decltype(forward)> op;
Op<decltype(epilogue_backward)> backward_op;

const Differentiable kDifferentiable = {
    "pylayers::ActivationBackward",
    [](at::TensorList inputs, Extras& extras, Tensors& saved) {
      const Tensor y = op(inputs[0], inputs[1], extras[0].toDouble(), extras[1].toInt());
      saved = {inputs[0], inputs[1], Tensor()};
      if (derivative_from_output(static_cast<Activation>(extras[1].toInt()))) saved[2] = save_output(y, extras);
      return y;
    },
    [](const Tensor& grad, const Tensors& saved, const Extras& extras, const std::vector<bool>& mask) -> Tensors {
      const double scale = extras[0].toDouble();
      const int64_t activation = extras[1].toInt();
      Tensor kept = saved[2].defined() ? saved[2] : saved[0];
      if (was_edited(extras)) {
        const at::AutoDispatchBelowADInplaceOrView guard;
        kept = op(saved[0], saved[1], scale, activation);
      }
      auto [dproduct, dbias] = backward_op(grad, kept, saved[1], scale, activation, {mask[0], mask[1]});
      return {dproduct, dbias};
    }};

}  // namespace

Activation parse_activation(const char* op, std::optional<std::string_view> name) {
  if (!name) return Activation::none;
  if (*name == "relu") return Activation::relu;
  if (*name == "gelu") return Activation::gelu;
  if (*name == "gelu_tanh") return Activation::gelu_tanh;
  if (*name == "silu") return Activation::silu;
  if (*name == "tanh") return Activation::tanh;
  if (*name == "sigmoid") return Activation::sigmoid;
  TORCH_CHECK_VALUE(false, op, ": activation must be None, 'relu', 'gelu', 'gelu_tanh', 'silu', 'tanh' or 'sigmoid', got '",
                    std::string(*name), "'");
}

Tensor activate(const Tensor& x, Activation activation) {
  switch (activation) {
    case Activation::relu: return x.relu();
    case Activation::gelu: return at::gelu(x);
    case Activation::gelu_tanh: return at::gelu(x, "tanh");
    case Activation::silu: return at::silu(x);
    case Activation::tanh: return x.tanh();
    case Activation::sigmoid: return x.sigmoid();
    default: return x;
  }
}

Tensor epilogue(const Tensor& product, const OptionalTensor& bias, double scale, Activation activation) {
  const auto number = static_cast<int64_t>(activation);
  if (needs_gradient({&product, &value(bias)})) return apply(kDifferentiable, {product, value(bias)}, {scale, number});
  const at::AutoDispatchBelowADInplaceOrView guard;
  return op(product, bias, scale, number);
}

void run_epilogue(const Target& target, const Tensor& y, const Tensor& product, const OptionalTensor& bias, double scale,
                  int64_t activation) {
  const int64_t dim = product.size(-1);
  const Rows z = as_rows(product, dim);
  const Tensor b = contiguous(bias);
  if (!z.empty()) kernels::linear_epilogue_forward(target, Argument::output(y, {z.rows, dim}), z.input(), vector(b), scale, activation);
}

Pair epilogue_backward(const Tensor& grad, const Tensor& saved, const OptionalTensor& bias, double scale, int64_t activation,
                       std::array<bool, 2> mask) {
  auto outputs = allocate_backward(grad, saved, bias, scale, activation, mask);
  auto& [dz, dbias] = outputs;
  const int64_t dim = grad.size(-1);
  const Rows g = as_rows(grad, dim), s = as_rows(saved, dim);
  if (g.empty()) {
    if (mask[1]) dbias.zero_();
    return outputs;
  }
  const Tensor b = contiguous(bias), partial = mask[1] ? partial_sums(grad, g.rows, dim) : Tensor();
  kernels::linear_epilogue_backward(registry::target(kOp, grad), Argument::output(dz, {g.rows, dim}),
                                    mask[1] ? Argument::output(dbias, {dim}) : Argument(),
                                    mask[1] ? Argument::output(partial, partial.sizes()) : Argument(), g.input(), s.input(),
                                    vector(b), scale, activation);
  return outputs;
}

Pair epilogue_backward_formula(const Tensor& grad, const Tensor& saved, const OptionalTensor& bias, double scale, int64_t activation,
                               std::array<bool, 2> mask) {
  const Tensor slope = derivative(saved, bias, scale, static_cast<Activation>(activation)) * scale;
  const Tensor dz = (grad.to(slope.scalar_type()) * slope).to(grad.scalar_type());
  return {dz, mask[1] ? flat(dz).sum(0) : nothing(grad)};
}

TORCH_LIBRARY_FRAGMENT(pylayers, m) {
  op.define_kernel(m, "linear_epilogue(Tensor product, Tensor? bias, float scale, int activation) -> Tensor", forward, allocate_forward);
  backward_op.define_backward(m, kOp, "linear_epilogue_backward(Tensor grad, Tensor saved, Tensor? bias, float scale, int activation, "
                                      "bool[2] mask) -> (Tensor, Tensor)",
                              epilogue_backward, allocate_backward, epilogue_backward_formula);
}

}  // namespace pylayers
