#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/minimum.h>
#include <ATen/ops/triu_indices.h>
#include <ATen/ops/zeros.h>

#include "autograd.h"
#include "bilinear_blocks.h"
#include "common.h"
#include "op.h"
#include "ops.h"
#include "tensor_reduction_blocks.h"

namespace pylayers {
namespace {

constexpr auto kOp = "tensor_reduction";

void check(const Tensor& input, const Tensor& weight, const Tensor& bias, bool symmetric) {
  check_floating(kOp, "input", input);
  check_matches(kOp, "weight", weight, "input", input);
  TORCH_CHECK_VALUE(input.dim() > 0, kOp, ": input must have at least one dimension, got shape ", input.sym_sizes());
  const auto dim = input.sym_size(-1);
  if (symmetric) {
    TORCH_CHECK_VALUE(weight.dim() == 2 && weight.sym_size(1) == dim * (dim + 1) / 2, kOp,
                      ": a symmetric weight must have shape (out_features, ", dim * (dim + 1) / 2,
                      ") (in_features · (in_features + 1) / 2 of input ", input.sym_sizes(), "), got ", weight.sym_sizes());
  } else {
    TORCH_CHECK_VALUE(weight.dim() == 3 && weight.sym_size(1) == dim && weight.sym_size(2) == dim, kOp,
                      ": weight must have shape (out_features, ", dim, ", ", dim, ") (the last dimension of input ",
                      input.sym_sizes(), "), got ", weight.sym_sizes());
  }
  if (!bias.defined()) return;
  check_matches(kOp, "bias", bias, "input", input);
  TORCH_CHECK_VALUE(bias.dim() == 1 && bias.sym_size(0) == weight.sym_size(0), kOp, ": bias must have shape (", weight.sym_size(0),
                    ",) (out_features of weight), got ", bias.sym_sizes());
}

// Sizes are given in full: -1 is ambiguous for empty tensors.
Tensor flat(const Tensor& tensor) {
  const auto leading = tensor.sym_sizes().slice(0, tensor.dim() - 1);
  return tensor.reshape_symint({c10::multiply_integers(leading), tensor.sym_size(-1)});
}

c10::SymDimVector output_sizes(const Tensor& input, const Tensor& weight) {
  c10::SymDimVector sizes(input.sym_sizes().begin(), input.sym_sizes().end());
  sizes.back() = weight.sym_size(0);
  return sizes;
}

// Where the upper triangle lies in dim · dim numbers.
Tensor triangle_places(const Tensor& like, int64_t dim) {
  const Tensor places = at::triu_indices(dim, dim, 0, like.options().dtype(at::kLong));
  return places.select(0, 0) * dim + places.select(0, 1);
}

// x ⊗ x of [rows, dim] as [rows, dim · dim], or as the packed triangle.
Tensor pairs(const Tensor& x, bool symmetric) {
  const int64_t dim = x.size(1);
  const Tensor all = (x.unsqueeze(2) * x.unsqueeze(1)).reshape_symint({x.sym_size(0), dim * dim});
  return symmetric ? all.index_select(1, triangle_places(x, dim)) : all;
}

// The gradient of pairs as a matrix of [rows, dim, dim] that x is to be multiplied with: both places of (i, j) together.
Tensor both_places(const Tensor& dpairs, int64_t dim, bool symmetric) {
  const auto rows = dpairs.sym_size(0);
  if (!symmetric) {
    const Tensor square = dpairs.reshape_symint({rows, dim, dim});
    return square + square.transpose(1, 2);
  }
  const Tensor index = at::arange(dim, dpairs.options().dtype(at::kLong));
  const Tensor i = at::minimum(index.unsqueeze(0), index.unsqueeze(1)), j = at::maximum(index.unsqueeze(0), index.unsqueeze(1));
  const Tensor place = (i * (2 * dim - 1 - i)).div(2, "floor") + j;
  return dpairs.index_select(1, place.reshape({dim * dim})).reshape_symint({rows, dim, dim}) * (1 + at::eye(dim, dpairs.options()));
}

// Of a full weight one sum after the other, which rounds less than one over all pairs.
Tensor quadratic(const Tensor& x, const Tensor& weight, bool symmetric) {
  if (symmetric) return pairs(x, true).matmul(weight.t());
  const Tensor projected = x.unsqueeze(0).expand_symint({weight.sym_size(0), x.sym_size(0), x.sym_size(1)}).bmm(weight);
  return projected.transpose(0, 1).matmul(x.unsqueeze(2)).squeeze(2);
}

Tensor formula(const Tensor& input, const Tensor& weight, const OptionalTensor& bias, bool symmetric) {
  const Tensor y = quadratic(flat(input), weight, symmetric).reshape_symint(output_sizes(input, weight));
  return value(bias).defined() ? y + *bias : y;
}

using Gradients = std::tuple<Tensor, Tensor, Tensor>;

Gradients backward_formula(const Tensor& grad, const Tensor& input, const Tensor& weight, bool symmetric, std::array<bool, 3> mask) {
  const Tensor g = flat(grad), x = flat(input);
  Tensor dx = nothing(grad), dweight = nothing(grad), dbias = nothing(grad);
  if (mask[0]) {
    const Tensor matrix = symmetric ? weight : weight.reshape({weight.size(0), weight.size(1) * weight.size(2)});
    const Tensor squares = both_places(g.matmul(matrix), x.size(1), symmetric);
    dx = squares.matmul(x.unsqueeze(2)).reshape_symint(input.sym_sizes());
  }
  if (mask[1]) dweight = g.t().matmul(pairs(x, symmetric)).reshape_symint(weight.sym_sizes());
  if (mask[2]) dbias = g.sum(0);
  return {dx, dweight, dbias};
}

bool empty(const Tensor& input, const Tensor& weight) { return input.numel() == 0 || weight.numel() == 0; }

Tensor allocate_forward(const Tensor& input, const Tensor& weight, const OptionalTensor&, bool) {
  return allocate(input, output_sizes(input, weight), input.scalar_type());
}

// With few outputs the blocks of a triangle cost more than the products that they save.
constexpr int64_t kFewOutputs = 16;

bool as_triangle(const Tensor& weight, bool symmetric) { return symmetric && weight.size(0) >= kFewOutputs; }

// The weight as bilinear takes it; of a packed one the lower triangle is 0.
Tensor square(const Tensor& weight, int64_t dim, bool symmetric) {
  if (!symmetric) return weight.contiguous();
  const Tensor full = at::zeros({weight.size(0), dim * dim}, weight.options());
  full.index_copy_(1, triangle_places(weight, dim), weight);
  return full.view({weight.size(0), dim, dim});
}

Tensor forward(const Tensor& input, const Tensor& weight, const OptionalTensor& bias, bool symmetric) {
  Tensor y = allocate_forward(input, weight, bias, symmetric);
  if (empty(input, weight)) return value(bias).defined() ? y.copy_(bias->expand_symint(y.sym_sizes())) : y.zero_();
  const auto target = registry::target(kOp, input);
  const Tensor x = as_matrix(input), b = contiguous(bias);
  if (as_triangle(weight, symmetric)) {
    triangle_output(target, as_matrix(y), x, weight.contiguous(), b);
  } else {
    bilinear_output(target, as_matrix(y), x, x, square(weight, x.size(1), symmetric), b);
  }
  return y;
}

Gradients allocate_backward(const Tensor& grad, const Tensor& input, const Tensor& weight, bool, std::array<bool, 3> mask) {
  return {mask[0] ? allocate_like(input) : nothing(grad), mask[1] ? allocate_like(weight) : nothing(grad),
          mask[2] ? allocate(grad, {weight.sym_size(0)}, grad.scalar_type()) : nothing(grad)};
}

void input_gradient(const Target& target, const Tensor& dx, const Tensor& grad, const Tensor& x, const Tensor& weight, bool symmetric) {
  if (as_triangle(weight, symmetric)) return triangle_input_gradient(target, dx, grad, x, weight.contiguous());
  const Tensor other = allocate_like(dx);
  bilinear_input_gradients(target, dx, other, grad, x, x, square(weight, x.size(1), symmetric));
  dx.add_(other);
}

Tensor weight_gradient(const Target& target, const Tensor& grad, const Tensor& x, const Tensor& weight, bool symmetric) {
  const int64_t outputs = weight.size(0), dim = x.size(1);
  if (as_triangle(weight, symmetric)) {
    const Tensor dweight = allocate_like(weight);
    triangle_weight_gradient(target, dweight, grad, x);
    return dweight;
  }
  const Tensor full = allocate(weight, {outputs, dim, dim}, weight.scalar_type());
  bilinear_weight_gradient(target, full, grad, x, x);
  return symmetric ? full.view({outputs, dim * dim}).index_select(1, triangle_places(weight, dim)) : full;
}

Gradients backward(const Tensor& grad, const Tensor& input, const Tensor& weight, bool symmetric, std::array<bool, 3> mask) {
  // The weight gradient, mostly the largest, is allocated when the workspace of the input gradient is free again.
  auto outputs = allocate_backward(grad, input, weight, symmetric, {mask[0], false, false});
  auto& [dx, dweight, dbias] = outputs;
  if (mask[2]) dbias = flat(grad).sum(0);
  if (empty(input, weight)) {
    if (mask[1]) dweight = allocate_like(weight);
    dx.zero_();
    dweight.zero_();
    return outputs;
  }
  const auto target = registry::target(kOp, input);
  const Tensor g = as_matrix(grad), x = as_matrix(input);
  if (mask[0]) input_gradient(target, as_matrix(dx), g, x, weight, symmetric);
  if (mask[1]) dweight = weight_gradient(target, g, x, weight, symmetric);
  return outputs;
}

Op<decltype(tensor_reduction)> op;
Op<decltype(forward)> forward_op;
Op<decltype(backward)> backward_op;

const Differentiable kDifferentiable = {
    "pylayers::TensorReductionBackward",
    [](at::TensorList inputs, Extras& extras, Tensors& saved) {
      saved = {inputs[0], inputs[1]};
      return forward_op(inputs[0], inputs[1], inputs[2], extras[0].toBool());
    },
    [](const Tensor& grad, const Tensors& saved, const Extras& extras, const std::vector<bool>& mask) -> Tensors {
      auto [dx, dweight, dbias] = backward_op(grad, saved[0], saved[1], extras[0].toBool(), {mask[0], mask[1], mask[2]});
      return {dx, dweight, dbias};
    }};

Tensor run(const Tensor& input, const Tensor& weight, const OptionalTensor& bias, bool symmetric) {
  check(input, weight, value(bias), symmetric);
  if (needs_formula(kOp, {&input, &weight, &value(bias)})) return formula(input, weight, bias, symmetric);
  if (needs_gradient({&input, &weight, &value(bias)})) return apply(kDifferentiable, {input, weight, value(bias)}, {symmetric});
  const at::AutoDispatchBelowADInplaceOrView guard;
  return forward_op(input, weight, bias, symmetric);
}

// As bilinear: the widest of the dtypes.
Tensor autocast(const Tensor& input, const Tensor& weight, const OptionalTensor& bias, bool symmetric) {
  const c10::impl::ExcludeDispatchKeyGuard guard(c10::autocast_dispatch_keyset);
  auto dtype = c10::promoteTypes(input.scalar_type(), weight.scalar_type());
  if (value(bias).defined()) dtype = c10::promoteTypes(dtype, bias->scalar_type());
  return tensor_reduction(autocast_to(dtype, input, input), autocast_to(dtype, weight, input), autocast_to(dtype, bias, input),
                          symmetric);
}

}  // namespace

Tensor tensor_reduction(const Tensor& input, const Tensor& weight, const OptionalTensor& bias, bool symmetric) {
  return op(input, weight, bias, symmetric);
}

TORCH_LIBRARY_FRAGMENT(pylayers, m) {
  op.define_public(m, "tensor_reduction(Tensor input, Tensor weight, Tensor? bias=None, bool symmetric=False) -> Tensor", run, autocast);
  forward_op.define_kernel(m, "tensor_reduction_forward(Tensor input, Tensor weight, Tensor? bias, bool symmetric) -> Tensor", forward,
                           allocate_forward);
  backward_op.define_backward(m, kOp, "tensor_reduction_backward(Tensor grad, Tensor input, Tensor weight, bool symmetric, "
                                      "bool[3] mask) -> (Tensor, Tensor, Tensor)",
                              backward, allocate_backward, backward_formula);
}

}  // namespace pylayers
