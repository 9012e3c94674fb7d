#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/linear.h>

#include <cmath>

#include "autograd.h"
#include "epilogue.h"
#include "op.h"
#include "ops.h"
#include "product.h"

namespace pylayers {
namespace {

constexpr auto kOp = "linear";

void check(const Tensor& input, const Tensor& weight, const Tensor& bias, double scale) {
  check_floating(kOp, "input", input);
  check_matches(kOp, "weight", weight, "input", input);
  TORCH_CHECK_VALUE(weight.dim() == 2, kOp, ": weight must have shape (out_features, in_features), got ", weight.sym_sizes());
  TORCH_CHECK_VALUE(input.dim() > 0 && input.sym_size(-1) == weight.sym_size(1), kOp, ": the last dimension of input must be ",
                    weight.sym_size(1), " (in_features of weight), got shape ", input.sym_sizes());
  TORCH_CHECK_VALUE(std::isfinite(scale), kOp, ": scale must be finite, got ", scale);
  if (!bias.defined()) return;
  check_matches(kOp, "bias", bias, "input", input);
  TORCH_CHECK_VALUE(bias.dim() == 1 && bias.sym_size(0) == weight.sym_size(0), kOp, ": bias must have shape (", weight.sym_size(0),
                    ",) (out_features of weight), got ", bias.sym_sizes());
}

Tensor formula(const Tensor& input, const Tensor& weight, const OptionalTensor& bias, double scale, Activation activation) {
  const Tensor z = at::linear(input, weight, bias);
  const Tensor y = activate(scale == 1 ? z : z * scale, activation);
  // ATen saves this output for its backward; the caller gets one that may be edited.
  return derivative_from_output(activation) ? y.clone() : y;
}

// The forward op gives y, and the product where the derivative needs it (else a tensor without elements).
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

Pair allocate_forward(const Tensor& input, const Tensor& weight, const OptionalTensor&, double, int64_t activation, bool save) {
  return {allocate_y(input, weight), saves_product(activation, save) ? allocate_y(input, weight) : nothing(input)};
}

// Without an activation, bias and scale go with the library's product.
Tensor scaled(const Target& target, const Tensor& x, const Tensor& weight, const Tensor& bias, double scale) {
  if (!bias.defined()) return product(target, x, weight, scale);
  Tensor y = allocate(x, {x.sym_size(0), weight.sym_size(0)}, x.scalar_type());
  multiply_to(y, x, weight.t(), scale, /*beta=*/scale, bias);
  return y;
}

Pair forward(const Tensor& input, const Tensor& weight, const OptionalTensor& bias, double scale, int64_t activation, bool save) {
  const auto target = registry::target(kOp, input);
  const Tensor x = flat(input);
  const int64_t rows = x.size(0), dim = weight.size(0);
  const bool two = saves_product(activation, save);
  if (kernels::linear_forward.has(target) && x.numel() && dim) {
    auto outputs = allocate_forward(input, weight, bias, scale, activation, save);
    auto& [y, saved] = outputs;
    const Tensor b = contiguous(bias);
    kernels::linear_forward(target, Argument::output(y, {rows, dim}), two ? Argument::output(saved, {rows, dim}) : Argument(),
                            matrix(x), matrix(weight), vector(b), scale, activation);
    return outputs;
  }
  auto sizes = input.sizes().vec();
  sizes.back() = dim;
  if (!activation) return {scaled(target, x, weight, value(bias), scale).view(sizes), nothing(input)};
  // Rounded to 16 bits before its bias is added, a product may fall on the other side of relu's edge: the bias goes into the product.
  // An activation whose derivative comes from its input saves the product alone.
  const bool whole = derivative_from_output(static_cast<Activation>(activation)) && value(bias).defined() &&
                     accumulation_dtype(input.scalar_type()) != input.scalar_type();
  const Tensor z = (whole ? scaled(target, x, weight, value(bias), scale) : product(target, x, weight)).view(sizes);
  const Tensor y = two ? allocate_like(z) : z;
  run_epilogue(target, y, z, whole ? std::nullopt : bias, whole ? 1 : scale, activation);
  return {y, two ? z : nothing(input)};
}

// Gradients of input, weight and bias. saved: see the epilogue kernel.
Triple allocate_backward(const Tensor&, const Tensor& input, const Tensor& weight, const Tensor&, const OptionalTensor&, double,
                         int64_t, std::array<bool, 3> mask) {
  return {mask[0] ? allocate_like(input) : nothing(input), mask[1] ? allocate_like(weight) : nothing(input),
          mask[2] ? allocate(input, {weight.sym_size(0)}, input.scalar_type()) : nothing(input)};
}

Tensor bias_gradient(const Tensor& grad, double scale) {
  const Tensor sum = flat(grad).sum(0);
  return scale == 1 ? sum : sum * scale;
}

Triple backward(const Tensor& grad, const Tensor& input, const Tensor& weight, const Tensor& saved, const OptionalTensor& bias,
                double scale, int64_t activation, std::array<bool, 3> mask) {
  const auto target = registry::target(kOp, input);
  Tensor dz = grad, dbias = nothing(input);
  if (activation) {
    std::tie(dz, dbias) = epilogue_backward(grad, saved, bias, scale, activation, {true, mask[2]});
    scale = 1;  // the scale is in dz; else the products take it
  } else if (mask[2]) {
    dbias = bias_gradient(grad, scale);
  }
  const Tensor rows = flat(dz);
  Tensor dx = nothing(input), dweight = nothing(input);
  if (mask[0]) dx = product(target, rows, weight.t(), scale).view(input.sizes());
  if (mask[1]) dweight = product(target, rows.t(), flat(input).t(), scale);
  return {dx, dweight, dbias};
}

Triple backward_formula(const Tensor& grad, const Tensor& input, const Tensor& weight, const Tensor&, const OptionalTensor& bias,
                        double scale, int64_t activation, std::array<bool, 3> mask) {
  // From the inputs, not from what was saved: second derivatives flow through the product.
  const auto kind = static_cast<Activation>(activation);
  Tensor dz = grad, dbias = nothing(input);
  if (kind != Activation::none) {
    const bool output = derivative_from_output(kind);
    const Tensor seen = output ? activate(at::linear(input, weight, bias) * scale, kind) : at::linear(input, weight);
    std::tie(dz, dbias) = epilogue_backward_formula(grad, seen, bias, scale, activation, {true, mask[2]});
  } else {
    dz = scale == 1 ? grad : grad * scale;
    if (mask[2]) dbias = flat(dz).sum(0);
  }
  return {mask[0] ? dz.matmul(weight) : nothing(input), mask[1] ? flat(dz).t().matmul(flat(input)) : nothing(input), dbias};
}

Op<decltype(linear)> op;
Op<decltype(forward)> forward_op;
Op<decltype(backward)> backward_op;

const Differentiable kDifferentiable = {
    "pylayers::LinearBackward",
    [](at::TensorList inputs, Extras& extras, Tensors& saved) {
      const int64_t activation = extras[1].toInt();
      auto [y, product] = forward_op(inputs[0], inputs[1], inputs[2], extras[0].toDouble(), activation, true);
      const bool output = derivative_from_output(static_cast<Activation>(activation));
      saved = {inputs[0], inputs[1], inputs[2], output ? save_output(y, extras) : product};
      return y;
    },
    [](const Tensor& grad, const Tensors& saved, const Extras& extras, const std::vector<bool>& mask) -> Tensors {
      const double scale = extras[0].toDouble();
      const int64_t activation = extras[1].toInt();
      Tensor kept = saved[3];
      if (was_edited(extras)) {
        const at::AutoDispatchBelowADInplaceOrView guard;
        kept = std::get<0>(forward_op(saved[0], saved[1], saved[2], scale, activation, false));
      }
      auto [dx, dweight, dbias] =
          backward_op(grad, saved[0], saved[1], kept, saved[2], scale, activation, {mask[0], mask[1], mask[2]});
      return {dx, dweight, dbias};
    }};

Tensor run(const Tensor& input, const Tensor& weight, const OptionalTensor& bias, std::optional<std::string_view> activation,
           double scale) {
  const auto kind = parse_activation(kOp, activation);
  check(input, weight, value(bias), scale);
  // A scale of 0 keeps the nans of 0 · nan, which a product by the library does not.
  if (needs_formula(kOp, {&input, &weight, &value(bias)}) || scale == 0) return formula(input, weight, bias, scale, kind);
  // Without activation the library's product with its own epilogue is the whole op.
  const bool fused = !input.is_meta() && kernels::linear_forward.has(registry::target(kOp, input));
  if (kind == Activation::none && scale == 1 && !fused && !multiplies_faster(input, weight)) return at::linear(input, weight, bias);
  const auto number = static_cast<int64_t>(kind);
  if (needs_gradient({&input, &weight, &value(bias)})) {
    const bool one_node = fused || kind == Activation::none || derivative_from_output(kind);
    if (one_node) return apply(kDifferentiable, {input, weight, value(bias)}, {scale, number});
    return epilogue(run(input, weight, {}, {}, 1), bias, scale, kind);
  }
  const at::AutoDispatchBelowADInplaceOrView guard;
  return std::get<0>(forward_op(input, weight, bias, scale, number, false));
}

// As torch.nn.functional.linear: the product runs in the lower precision.
Tensor autocast(const Tensor& input, const Tensor& weight, const OptionalTensor& bias, std::optional<std::string_view> activation,
                double scale) {
  const c10::impl::ExcludeDispatchKeyGuard guard(c10::autocast_dispatch_keyset);
  const auto dtype = autocast_dtype(input);
  return linear(autocast_to(dtype, input, input), autocast_to(dtype, weight, input), autocast_to(dtype, bias, input), activation,
                scale);
}

}  // namespace

Tensor linear(const Tensor& input, const Tensor& weight, const OptionalTensor& bias, std::optional<std::string_view> activation,
              double scale) {
  return op(input, weight, bias, activation, scale);
}

TORCH_LIBRARY_FRAGMENT(pylayers, m) {
  op.define_public(m, "linear(Tensor input, Tensor weight, Tensor? bias=None, str? activation=None, float scale=1.0) -> Tensor", run,
                   autocast);
  forward_op.define_kernel(m, "linear_forward(Tensor input, Tensor weight, Tensor? bias, float scale, int activation, bool save) "
                              "-> (Tensor, Tensor)",
                           forward, allocate_forward);
  backward_op.define_backward(m, kOp, "linear_backward(Tensor grad, Tensor input, Tensor weight, Tensor saved, Tensor? bias, "
                                      "float scale, int activation, bool[3] mask) -> (Tensor, Tensor, Tensor)",
                              backward, allocate_backward, backward_formula);
}

}  // namespace pylayers
