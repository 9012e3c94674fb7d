#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>

#include "autograd.h"
#include "bilinear_blocks.h"
#include "common.h"
#include "op.h"
#include "ops.h"

namespace pylayers {
namespace {

constexpr auto kOp = "bilinear";

void check(const Tensor& input1, const Tensor& input2, const Tensor& weight, const Tensor& bias) {
  check_floating(kOp, "input1", input1);
  check_matches(kOp, "input2", input2, "input1", input1);
  check_matches(kOp, "weight", weight, "input1", input1);
  TORCH_CHECK_VALUE(weight.dim() == 3, kOp, ": weight must have shape (out_features, in1_features, in2_features), got ",
                    weight.sym_sizes());
  TORCH_CHECK_VALUE(input1.dim() > 0 && input1.sym_size(-1) == weight.sym_size(1), kOp, ": the last dimension of input1 must be ",
                    weight.sym_size(1), " (in1_features of weight), got shape ", input1.sym_sizes());
  TORCH_CHECK_VALUE(input2.dim() > 0 && input2.sym_size(-1) == weight.sym_size(2), kOp, ": the last dimension of input2 must be ",
                    weight.sym_size(2), " (in2_features of weight), got shape ", input2.sym_sizes());
  const auto leading = input1.sym_sizes().slice(0, input1.dim() - 1);
  TORCH_CHECK_VALUE(input2.sym_sizes().slice(0, input2.dim() - 1).equals(leading), kOp,
                    ": input2 must have the leading dimensions of input1 ", leading, ", got shape ", input2.sym_sizes());
  if (!bias.defined()) return;
  check_matches(kOp, "bias", bias, "input1", input1);
  TORCH_CHECK_VALUE(bias.dim() == 1 && bias.sym_size(0) == weight.sym_size(0), kOp, ": bias must have shape (", weight.sym_size(0),
                    ",) (out_features of weight), got ", bias.sym_sizes());
}

// [rows, columns] of a tensor with any leading dimensions. Sizes are given in full: -1 is ambiguous for empty tensors.
Tensor flat(const Tensor& tensor) {
  const auto leading = tensor.sym_sizes().slice(0, tensor.dim() - 1);
  return tensor.reshape_symint({c10::multiply_integers(leading), tensor.sym_size(-1)});
}

// x as often as there are outputs, and grad as what each of them is multiplied with. The formulas take one sum after the other: a
// single one over two dimensions rounds much more.
Tensor for_each_output(const Tensor& x, const Tensor& weight) {
  return x.unsqueeze(0).expand_symint({weight.sym_size(0), x.sym_size(0), x.sym_size(1)});
}

Tensor factors(const Tensor& grad) { return flat(grad).t().unsqueeze(2); }

c10::SymDimVector output_sizes(const Tensor& input, const Tensor& weight) {
  c10::SymDimVector sizes(input.sym_sizes().begin(), input.sym_sizes().end());
  sizes.back() = weight.sym_size(0);
  return sizes;
}

Tensor formula(const Tensor& input1, const Tensor& input2, const Tensor& weight, const OptionalTensor& bias) {
  const Tensor projected = for_each_output(flat(input1), weight).bmm(weight);
  const Tensor y = projected.transpose(0, 1).matmul(flat(input2).unsqueeze(2)).squeeze(2);
  const Tensor shaped = y.reshape_symint(output_sizes(input1, weight));
  return value(bias).defined() ? shaped + *bias : shaped;
}

using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor>;

Gradients backward_formula(const Tensor& grad, const Tensor& input1, const Tensor& input2, const Tensor& weight,
                           std::array<bool, 4> mask) {
  const Tensor g = factors(grad), x1 = flat(input1), x2 = for_each_output(flat(input2), weight);
  Tensor dx1 = nothing(grad), dx2 = nothing(grad), dweight = nothing(grad), dbias = nothing(grad);
  if (mask[0]) dx1 = (g * x2.bmm(weight.transpose(1, 2))).sum(0).reshape_symint(input1.sym_sizes());
  if (mask[1]) dx2 = (g * for_each_output(x1, weight).bmm(weight)).sum(0).reshape_symint(input2.sym_sizes());
  if (mask[2]) dweight = (g * x1).transpose(1, 2).bmm(x2);
  if (mask[3]) dbias = flat(grad).sum(0);
  return {dx1, dx2, dweight, dbias};
}

bool empty(const Tensor& input1, const Tensor& weight) { return input1.numel() == 0 || weight.numel() == 0; }

Tensor allocate_forward(const Tensor& input1, const Tensor&, const Tensor& weight, const OptionalTensor&) {
  return allocate(input1, output_sizes(input1, weight), input1.scalar_type());
}

Tensor forward(const Tensor& input1, const Tensor& input2, const Tensor& weight, const OptionalTensor& bias) {
  Tensor y = allocate_forward(input1, input2, weight, bias);
  if (empty(input1, weight)) return value(bias).defined() ? y.copy_(bias->expand_symint(y.sym_sizes())) : y.zero_();
  bilinear_output(registry::target(kOp, input1), as_matrix(y), as_matrix(input1), as_matrix(input2), weight.contiguous(),
                  contiguous(bias));
  return y;
}

Gradients allocate_backward(const Tensor& grad, const Tensor& input1, const Tensor& input2, const Tensor& weight,
                            std::array<bool, 4> mask) {
  return {mask[0] ? allocate_like(input1) : nothing(grad), mask[1] ? allocate_like(input2) : nothing(grad),
          mask[2] ? allocate_like(weight) : nothing(grad),
          mask[3] ? allocate(grad, {weight.sym_size(0)}, grad.scalar_type()) : nothing(grad)};
}

Gradients backward(const Tensor& grad, const Tensor& input1, const Tensor& input2, const Tensor& weight, std::array<bool, 4> mask) {
  // The weight gradient, mostly the largest, is allocated when the workspace of the others is free again.
  auto outputs = allocate_backward(grad, input1, input2, weight, {mask[0], mask[1], false, false});
  auto& [dx1, dx2, dweight, dbias] = outputs;
  if (mask[3]) dbias = flat(grad).sum(0);
  if (empty(input1, weight)) {
    if (mask[2]) dweight = allocate_like(weight);
    for (const auto* one : {&dx1, &dx2, &dweight}) one->zero_();
    return outputs;
  }
  const auto target = registry::target(kOp, input1);
  const Tensor g = as_matrix(grad), x1 = as_matrix(input1), x2 = as_matrix(input2);
  if (mask[0] || mask[1]) {
    bilinear_input_gradients(target, mask[0] ? as_matrix(dx1) : Tensor(), mask[1] ? as_matrix(dx2) : Tensor(), g, x1, x2,
                             weight.contiguous());
  }
  if (mask[2]) {
    dweight = allocate_like(weight);
    bilinear_weight_gradient(target, dweight, g, x1, x2);
  }
  return outputs;
}

Op<decltype(bilinear)> op;
Op<decltype(forward)> forward_op;
Op<decltype(backward)> backward_op;

const Differentiable kDifferentiable = {
    "pylayers::BilinearBackward",
    [](at::TensorList inputs, Extras&, Tensors& saved) {
      saved = {inputs[0], inputs[1], inputs[2]};
      return forward_op(inputs[0], inputs[1], inputs[2], inputs[3]);
    },
    [](const Tensor& grad, const Tensors& saved, const Extras&, const std::vector<bool>& mask) -> Tensors {
      auto [dx1, dx2, dweight, dbias] = backward_op(grad, saved[0], saved[1], saved[2], {mask[0], mask[1], mask[2], mask[3]});
      return {dx1, dx2, dweight, dbias};
    }};

Tensor run(const Tensor& input1, const Tensor& input2, const Tensor& weight, const OptionalTensor& bias) {
  check(input1, input2, weight, value(bias));
  if (needs_formula(kOp, {&input1, &input2, &weight, &value(bias)})) return formula(input1, input2, weight, bias);
  if (needs_gradient({&input1, &input2, &weight, &value(bias)}))
    return apply(kDifferentiable, {input1, input2, weight, value(bias)});
  const at::AutoDispatchBelowADInplaceOrView guard;
  return forward_op(input1, input2, weight, bias);
}

// As torch does under autocast: the widest of the dtypes.
Tensor autocast(const Tensor& input1, const Tensor& input2, const Tensor& weight, const OptionalTensor& bias) {
  const c10::impl::ExcludeDispatchKeyGuard guard(c10::autocast_dispatch_keyset);
  auto dtype = c10::promoteTypes(c10::promoteTypes(input1.scalar_type(), input2.scalar_type()), weight.scalar_type());
  if (value(bias).defined()) dtype = c10::promoteTypes(dtype, bias->scalar_type());
  return pylayers::bilinear(autocast_to(dtype, input1, input1), autocast_to(dtype, input2, input1), autocast_to(dtype, weight, input1),
                  autocast_to(dtype, bias, input1));
}

}  // namespace

Tensor bilinear(const Tensor& input1, const Tensor& input2, const Tensor& weight, const OptionalTensor& bias) {
  return op(input1, input2, weight, bias);
}

TORCH_LIBRARY_FRAGMENT(pylayers, m) {
  op.define_public(m, "bilinear(Tensor input1, Tensor input2, Tensor weight, Tensor? bias=None) -> Tensor", run, autocast);
  forward_op.define_kernel(m, "bilinear_forward(Tensor input1, Tensor input2, Tensor weight, Tensor? bias) -> Tensor", forward,
                           allocate_forward);
  backward_op.define_backward(m, kOp, "bilinear_backward(Tensor grad, Tensor input1, Tensor input2, Tensor weight, bool[4] mask) "
                                      "-> (Tensor, Tensor, Tensor, Tensor)",
                              backward, allocate_backward, backward_formula);
}

}  // namespace pylayers
