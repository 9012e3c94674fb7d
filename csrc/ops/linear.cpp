#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/alias.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/gelu_backward.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/silu.h>

#include "../activation.h"
#include "autograd.h"
#include "common.h"
#include "op.h"
#include "ops.h"

namespace pylayers {
namespace {

constexpr auto kOp = "linear";

Activation parse(std::optional<std::string_view> name) {
  if (!name) return Activation::none;
  if (*name == "relu") return Activation::relu;
  if (*name == "gelu") return Activation::gelu;
  if (*name == "gelu_tanh") return Activation::gelu_tanh;
  if (*name == "silu") return Activation::silu;
  if (*name == "tanh") return Activation::tanh;
  if (*name == "sigmoid") return Activation::sigmoid;
  TORCH_CHECK_VALUE(false, kOp, ": activation must be None, 'relu', 'gelu', 'gelu_tanh', 'silu', 'tanh' or 'sigmoid', got '",
                    std::string(*name), "'");
}

void check(const Tensor& input, const Tensor& weight, const Tensor& bias) {
  check_floating(kOp, "input", input);
  check_matches(kOp, "weight", weight, "input", input);
  TORCH_CHECK_VALUE(weight.dim() == 2, kOp, ": weight must have shape (out_features, in_features), got ", weight.sym_sizes());
  TORCH_CHECK_VALUE(input.dim() > 0 && input.sym_size(-1) == weight.sym_size(1), kOp, ": the last dimension of input must be ",
                    weight.sym_size(1), " (in_features of weight), got shape ", input.sym_sizes());
  if (!bias.defined()) return;
  check_matches(kOp, "bias", bias, "input", input);
  TORCH_CHECK_VALUE(bias.dim() == 1 && bias.sym_size(0) == weight.sym_size(0), kOp, ": bias must have shape (", weight.sym_size(0),
                    ",) (out_features of weight), got ", bias.sym_sizes());
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

Tensor formula(const Tensor& input, const Tensor& weight, const OptionalTensor& bias, Activation activation) {
  const Tensor y = activate(at::linear(input, weight, bias), activation);
  // ATen saves this output for its backward; the caller gets one that may be edited.
  return derivative_from_output(activation) ? y.clone() : y;
}

// [rows, columns] of a tensor with any leading dimensions. Sizes are given in full: -1 is ambiguous for empty tensors.
Tensor flat(const Tensor& tensor) {
  const auto leading = tensor.sym_sizes().slice(0, tensor.dim() - 1);
  return tensor.reshape_symint({c10::multiply_integers(leading), tensor.sym_size(-1)});
}

// activation'(product + bias) from the output or from the product, as differentiable operations.
Tensor derivative(const Tensor& saved, const OptionalTensor& bias, Activation activation) {
  const auto dtype = accumulation_dtype(saved.scalar_type());
  const Tensor y = saved.to(dtype);
  if (activation == Activation::relu) return (y > 0).to(dtype);
  if (activation == Activation::tanh) return 1 - y * y;
  if (activation == Activation::sigmoid) return y * (1 - y);
  const Tensor x = value(bias).defined() ? y + bias->to(dtype) : y;
  if (activation == Activation::silu) {
    const Tensor s = x.sigmoid();
    return s * (1 + x * (1 - s));
  }
  return at::gelu_backward(at::ones_like(x), x, activation == Activation::gelu_tanh ? "tanh" : "none");
}

// The forward op gives y, and the product where the derivative needs it (else a tensor without elements).
using Pair = std::tuple<Tensor, Tensor>;
using Triple = std::tuple<Tensor, Tensor, Tensor>;

bool saves_product(int64_t activation, bool save) {
  const auto kind = static_cast<Activation>(activation);
  return save && kind != Activation::none && !derivative_from_output(kind);
}

Tensor allocate_y(const Tensor& input, const Tensor& weight) {
  auto sizes = input.sym_sizes().vec();
  sizes.back() = weight.sym_size(0);
  return allocate(input, sizes, input.scalar_type());
}

Pair allocate_forward(const Tensor& input, const Tensor& weight, const OptionalTensor&, int64_t activation, bool save) {
  return {allocate_y(input, weight), saves_product(activation, save) ? allocate_y(input, weight) : nothing(input)};
}

Argument matrix(const Tensor& tensor) { return Argument::input(tensor, tensor.sizes(), tensor.strides()); }

// a · bᵀ by the backend's own product, or the library's.
Tensor product(const Target& target, const Tensor& a, const Tensor& b) {
  Tensor y = allocate(a, {a.sym_size(0), b.sym_size(0)}, a.scalar_type());
  if (!kernels::linear_forward.has(target) || a.numel() == 0 || b.numel() == 0) return at::mm_out(y, a, b.t());
  kernels::linear_forward(target, Argument::output(y, y.sizes()), Argument(), matrix(a), matrix(b), Argument(), int64_t{0});
  return y;
}

// y = activation(z + bias); y may be z.
void run_epilogue(const Target& target, const Tensor& y, const Tensor& product, const OptionalTensor& bias, int64_t activation) {
  const int64_t dim = product.size(-1);
  const Rows z = as_rows(product, dim);
  const Tensor b = contiguous(bias);
  if (!z.empty()) kernels::linear_epilogue_forward(target, Argument::output(y, {z.rows, dim}), z.input(), vector(b), activation);
}

Pair forward(const Tensor& input, const Tensor& weight, const OptionalTensor& bias, int64_t activation, bool save) {
  const auto target = registry::target(kOp, input);
  const Tensor x = flat(input);
  const int64_t rows = x.size(0), dim = weight.size(0);
  const bool two = saves_product(activation, save);
  if (kernels::linear_forward.has(target) && x.numel() && dim) {
    auto outputs = allocate_forward(input, weight, bias, activation, save);
    auto& [y, saved] = outputs;
    const Tensor b = contiguous(bias);
    kernels::linear_forward(target, Argument::output(y, {rows, dim}), two ? Argument::output(saved, {rows, dim}) : Argument(),
                            matrix(x), matrix(weight), vector(b), activation);
    return outputs;
  }
  auto sizes = input.sizes().vec();
  sizes.back() = dim;
  const Tensor z = product(target, x, weight).view(sizes);
  const Tensor y = two ? allocate_like(z) : z;
  run_epilogue(target, y, z, bias, activation);
  return {y, two ? z : nothing(input)};
}

// Gradients of input, weight and bias. saved: see the epilogue kernel.
Triple allocate_backward(const Tensor&, const Tensor& input, const Tensor& weight, const Tensor&, const OptionalTensor&, int64_t,
                         std::array<bool, 3> mask) {
  return {mask[0] ? allocate_like(input) : nothing(input), mask[1] ? allocate_like(weight) : nothing(input),
          mask[2] ? allocate(input, {weight.sym_size(0)}, input.scalar_type()) : nothing(input)};
}

// Gradients of product and bias. saved: the output where derivative_from_output holds, else the product.
Pair allocate_epilogue_backward(const Tensor& grad, const Tensor&, const OptionalTensor&, int64_t, std::array<bool, 2> mask) {
  return {allocate_like(grad), mask[1] ? allocate(grad, {grad.sym_size(-1)}, grad.scalar_type()) : nothing(grad)};
}

Pair epilogue_backward(const Tensor& grad, const Tensor& saved, const OptionalTensor& bias, int64_t activation,
                       std::array<bool, 2> mask) {
  auto outputs = allocate_epilogue_backward(grad, saved, bias, activation, mask);
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
                                    vector(b), activation);
  return outputs;
}

Pair epilogue_backward_formula(const Tensor& grad, const Tensor& saved, const OptionalTensor& bias, int64_t activation,
                               std::array<bool, 2> mask) {
  const Tensor slope = derivative(saved, bias, static_cast<Activation>(activation));
  const Tensor dz = (grad.to(slope.scalar_type()) * slope).to(grad.scalar_type());
  return {dz, mask[1] ? flat(dz).sum(0) : nothing(grad)};
}

Triple backward(const Tensor& grad, const Tensor& input, const Tensor& weight, const Tensor& saved, const OptionalTensor& bias,
                int64_t activation, std::array<bool, 3> mask) {
  const auto target = registry::target(kOp, input);
  Tensor dz = grad, dbias = nothing(input);
  if (activation) {
    std::tie(dz, dbias) = epilogue_backward(grad, saved, bias, activation, {true, mask[2]});
  } else if (mask[2]) {
    dbias = flat(grad).sum(0);
  }
  const Tensor rows = flat(dz);
  Tensor dx = nothing(input), dweight = nothing(input);
  if (mask[0]) dx = product(target, rows, weight.t()).view(input.sizes());
  if (mask[1]) dweight = product(target, rows.t(), flat(input).t());
  return {dx, dweight, dbias};
}

Triple backward_formula(const Tensor& grad, const Tensor& input, const Tensor& weight, const Tensor&, const OptionalTensor& bias,
                        int64_t activation, std::array<bool, 3> mask) {
  // From the inputs, not from what was saved: second derivatives flow through the product.
  const auto kind = static_cast<Activation>(activation);
  Tensor dz = grad, dbias = nothing(input);
  if (kind != Activation::none) {
    const Tensor seen = derivative_from_output(kind) ? activate(at::linear(input, weight, bias), kind) : at::linear(input, weight);
    std::tie(dz, dbias) = epilogue_backward_formula(grad, seen, bias, activation, {true, mask[2]});
  } else if (mask[2]) {
    dbias = flat(grad).sum(0);
  }
  return {mask[0] ? dz.matmul(weight) : nothing(input), mask[1] ? flat(dz).t().matmul(flat(input)) : nothing(input), dbias};
}

// The epilogue as an op of its own, for activations whose derivative needs the product: autograd then frees the product before
// it computes the gradients of input and weight, as it does for separate layers.
Tensor allocate_epilogue(const Tensor& product, const OptionalTensor&, int64_t) { return allocate_like(product); }

Tensor epilogue(const Tensor& product, const OptionalTensor& bias, int64_t activation) {
  Tensor y = allocate_like(product);
  run_epilogue(registry::target(kOp, product), y, product, bias, activation);
  return y;
}

Op<decltype(linear)> op;
Op<decltype(forward)> forward_op;
Op<decltype(backward)> backward_op;
Op<decltype(epilogue)> epilogue_op;
Op<decltype(epilogue_backward)> epilogue_backward_op;

const Differentiable kEpilogue = {
    [](at::TensorList inputs, Extras& extras, Tensors& saved) {
      saved = inputs.vec();
      return epilogue_op(inputs[0], inputs[1], extras[0].toInt());
    },
    [](const Tensor& grad, const Tensors& saved, const Extras& extras, const std::vector<bool>& mask) -> Tensors {
      auto [dz, dbias] = epilogue_backward_op(grad, saved[0], saved[1], extras[0].toInt(), {mask[0], mask[1]});
      return {dz, dbias};
    }};

// Tells later whether y was changed in place: shares its version counter, not its memory.
Tensor version_of(const Tensor& y) {
  Tensor handle = at::empty({0}, y.options());
  handle.unsafeGetTensorImpl()->set_version_counter(y.unsafeGetTensorImpl()->version_counter());
  return handle;
}

const Differentiable kDifferentiable = {
    [](at::TensorList inputs, Extras& extras, Tensors& saved) {
      const int64_t activation = extras[0].toInt();
      auto [y, product] = forward_op(inputs[0], inputs[1], inputs[2], activation, true);
      saved = {inputs[0], inputs[1], inputs[2], product};
      if (derivative_from_output(static_cast<Activation>(activation))) {
        // The output is saved for free, as an alias whose version nobody bumps: an edit of y is legal, and then the backward
        // computes the output again.
        saved[3] = at::alias(y);
        extras.emplace_back(version_of(y));
        extras.emplace_back(static_cast<int64_t>(y._version()));
      }
      return y;
    },
    [](const Tensor& grad, const Tensors& saved, const Extras& extras, const std::vector<bool>& mask) -> Tensors {
      const int64_t activation = extras[0].toInt();
      Tensor kept = saved[3];
      if (extras.size() > 1 && extras[1].toTensor()._version() != extras[2].toInt()) {
        const at::AutoDispatchBelowADInplaceOrView guard;
        kept = std::get<0>(forward_op(saved[0], saved[1], saved[2], activation, false));
      }
      auto [dx, dweight, dbias] =
          backward_op(grad, saved[0], saved[1], kept, saved[2], activation, {mask[0], mask[1], mask[2]});
      return {dx, dweight, dbias};
    }};

Tensor run(const Tensor& input, const Tensor& weight, const OptionalTensor& bias, std::optional<std::string_view> activation) {
  const auto kind = parse(activation);
  check(input, weight, value(bias));
  if (needs_formula(kOp, {&input, &weight, &value(bias)})) return formula(input, weight, bias, kind);
  // Without activation the library's product with its own epilogue is the whole op.
  const bool fused = !input.is_meta() && kernels::linear_forward.has(registry::target(kOp, input));
  if (kind == Activation::none && !fused) return at::linear(input, weight, bias);
  const auto number = static_cast<int64_t>(kind);
  if (needs_gradient({&input, &weight, &value(bias)})) {
    if (fused || derivative_from_output(kind)) return apply(kDifferentiable, {input, weight, value(bias)}, {number});
    return apply(kEpilogue, {at::linear(input, weight), value(bias)}, {number});
  }
  const at::AutoDispatchBelowADInplaceOrView guard;
  return std::get<0>(forward_op(input, weight, bias, number, false));
}

// As torch.nn.functional.linear: the product runs in the lower precision.
Tensor autocast(const Tensor& input, const Tensor& weight, const OptionalTensor& bias, std::optional<std::string_view> activation) {
  const c10::impl::ExcludeDispatchKeyGuard guard(c10::autocast_dispatch_keyset);
  const auto dtype = autocast_dtype(input);
  return linear(autocast_to(dtype, input, input), autocast_to(dtype, weight, input), autocast_to(dtype, bias, input), activation);
}

}  // namespace

Tensor linear(const Tensor& input, const Tensor& weight, const OptionalTensor& bias, std::optional<std::string_view> activation) {
  return op(input, weight, bias, activation);
}

TORCH_LIBRARY_FRAGMENT(pylayers, m) {
  op.define_public(m, "linear(Tensor input, Tensor weight, Tensor? bias=None, str? activation=None) -> Tensor", run, autocast);
  forward_op.define_kernel(m, "linear_forward(Tensor input, Tensor weight, Tensor? bias, int activation, bool save) -> (Tensor, Tensor)",
                           forward, allocate_forward);
  backward_op.define_backward(m, kOp, "linear_backward(Tensor grad, Tensor input, Tensor weight, Tensor saved, Tensor? bias, "
                                      "int activation, bool[3] mask) -> (Tensor, Tensor, Tensor)",
                              backward, allocate_backward, backward_formula);
  epilogue_op.define_kernel(m, "linear_epilogue(Tensor product, Tensor? bias, int activation) -> Tensor", epilogue, allocate_epilogue);
  epilogue_backward_op.define_backward(m, kOp, "linear_epilogue_backward(Tensor grad, Tensor saved, Tensor? bias, int activation, "
                                               "bool[2] mask) -> (Tensor, Tensor)",
                                       epilogue_backward, allocate_epilogue_backward, epilogue_backward_formula);
}

}  // namespace pylayers
