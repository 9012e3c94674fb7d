#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty_like.h>

#include "autograd.h"
#include "common.h"
#include "op.h"
#include "ops.h"

namespace pylayers {
namespace {

constexpr auto kOp = "swiglu";
constexpr auto kPackedOp = "swiglu_packed";

using Pair = std::tuple<Tensor, Tensor>;

void check(const Tensor& gate, const Tensor& up) {
  check_floating(kOp, "gate", gate);
  check_matches(kOp, "up", up, "gate", gate);
  TORCH_CHECK_VALUE(up.sym_sizes().equals(gate.sym_sizes()), kOp, ": up must have the shape of gate ", gate.sym_sizes(), ", got ",
                    up.sym_sizes());
}

void check_packed(const Tensor& input) {
  check_floating(kPackedOp, "input", input);
  TORCH_CHECK_VALUE(input.dim() > 0 && input.sym_size(-1) % 2 == 0, kPackedOp,
                    ": the last dimension of input must be even (the halves gate and up), got shape ", input.sym_sizes());
}

Pair halves(const Tensor& input) {
  const auto half = input.sym_size(-1) / 2;
  return {input.narrow_symint(-1, 0, half), input.narrow_symint(-1, half, half)};
}

Tensor formula(const Tensor& gate, const Tensor& up) {
  const auto dtype = accumulation_dtype(gate.scalar_type());
  const Tensor x = gate.to(dtype);
  return (x * x.sigmoid() * up.to(dtype)).to(gate.scalar_type());
}

Pair backward_formula(const Tensor& grad, const Tensor& gate, const Tensor& up) {
  const auto dtype = accumulation_dtype(gate.scalar_type());
  const Tensor x = gate.to(dtype), g = grad.to(dtype), s = x.sigmoid();
  return {(g * up.to(dtype) * s * (1 + x * (1 - s))).to(gate.scalar_type()), (g * x * s).to(gate.scalar_type())};
}

Tensor packed_formula(const Tensor& input) {
  const auto [gate, up] = halves(input);
  return formula(gate, up);
}

Tensor packed_backward_formula(const Tensor& grad, const Tensor& input) {
  const auto [gate, up] = halves(input);
  const auto [dgate, dup] = backward_formula(grad, gate, up);
  return at::cat({dgate, dup}, -1);
}

// Rows are the last dimension: a view with unit stride there needs no copy.
int64_t row_length(const Tensor& tensor) { return tensor.dim() ? tensor.size(-1) : 1; }

Tensor allocate_forward(const Tensor& gate, const Tensor&) { return allocate_like(gate); }

Tensor forward(const Tensor& gate, const Tensor& up) {
  Tensor y = allocate_forward(gate, up);
  const int64_t dim = row_length(gate);
  const Rows a = as_rows(gate, dim), b = as_rows(up, dim);
  if (!a.empty()) kernels::swiglu_forward(registry::target(kOp, gate), Argument::output(y, {a.rows, dim}), a.input(), b.input());
  return y;
}

Pair allocate_backward(const Tensor&, const Tensor& gate, const Tensor& up) { return {allocate_like(gate), allocate_like(up)}; }

Pair backward(const Tensor& grad, const Tensor& gate, const Tensor& up) {
  auto outputs = allocate_backward(grad, gate, up);
  auto& [dgate, dup] = outputs;
  const int64_t dim = row_length(gate);
  const Rows g = as_rows(grad, dim), a = as_rows(gate, dim), b = as_rows(up, dim);
  if (!a.empty()) {
    kernels::swiglu_backward(registry::target(kOp, gate), Argument::output(dgate, {a.rows, dim}),
                             Argument::output(dup, {a.rows, dim}), g.input(), a.input(), b.input());
  }
  return outputs;
}

Tensor allocate_packed_forward(const Tensor& input) {
  auto sizes = input.sym_sizes().vec();
  sizes.back() = sizes.back() / 2;
  return allocate(input, sizes, input.scalar_type());
}

Tensor packed_forward(const Tensor& input) {
  Tensor y = allocate_packed_forward(input);
  const int64_t dim = input.size(-1) / 2;
  const Rows x = as_rows(input, 2 * dim);
  if (!x.empty()) {
    kernels::swiglu_forward(registry::target(kPackedOp, input), Argument::output(y, {x.rows, dim}), x.input(0, dim),
                            x.input(dim, dim));
  }
  return y;
}

Tensor allocate_packed_backward(const Tensor&, const Tensor& input) { return allocate_like(input); }

Tensor packed_backward(const Tensor& grad, const Tensor& input) {
  Tensor dinput = allocate_packed_backward(grad, input);
  const int64_t dim = input.size(-1) / 2;
  const Rows g = as_rows(grad, dim), x = as_rows(input, 2 * dim);
  if (!x.empty()) {
    kernels::swiglu_backward(registry::target(kPackedOp, input), Argument::output(dinput, {x.rows, dim}, {2 * dim, 1}),
                             Argument::output(dinput, {x.rows, dim}, {2 * dim, 1}, dim), g.input(), x.input(0, dim),
                             x.input(dim, dim));
  }
  return dinput;
}

Op<decltype(swiglu)> op;
Op<decltype(forward)> forward_op;
Op<decltype(backward)> backward_op;
Op<decltype(swiglu_packed)> packed_op;
Op<decltype(packed_forward)> packed_forward_op;
Op<decltype(packed_backward)> packed_backward_op;

const Differentiable kDifferentiable = {
    [](at::TensorList inputs, Extras&, Tensors& saved) {
      saved = inputs.vec();
      return forward_op(inputs[0], inputs[1]);
    },
    [](const Tensor& grad, const Tensors& saved, const Extras&, const std::vector<bool>&) -> Tensors {
      auto [dgate, dup] = backward_op(grad, saved[0], saved[1]);
      return {dgate, dup};
    }};

const Differentiable kPackedDifferentiable = {
    [](at::TensorList inputs, Extras&, Tensors& saved) {
      saved = inputs.vec();
      return packed_forward_op(inputs[0]);
    },
    [](const Tensor& grad, const Tensors& saved, const Extras&, const std::vector<bool>&) -> Tensors {
      return {packed_backward_op(grad, saved[0])};
    }};

Tensor run(const Tensor& gate, const Tensor& up) {
  check(gate, up);
  if (needs_formula(kOp, {&gate, &up})) return formula(gate, up);
  if (needs_gradient({&gate, &up})) return apply(kDifferentiable, {gate, up});
  const at::AutoDispatchBelowADInplaceOrView guard;
  return forward_op(gate, up);
}

Tensor run_packed(const Tensor& input) {
  check_packed(input);
  if (needs_formula(kPackedOp, {&input})) return packed_formula(input);
  if (needs_gradient({&input})) return apply(kPackedDifferentiable, {input});
  const at::AutoDispatchBelowADInplaceOrView guard;
  return packed_forward_op(input);
}

// As torch's product does under autocast: the wider of the two dtypes.
Tensor autocast(const Tensor& gate, const Tensor& up) {
  const c10::impl::ExcludeDispatchKeyGuard guard(c10::autocast_dispatch_keyset);
  const auto dtype = c10::promoteTypes(gate.scalar_type(), up.scalar_type());
  return swiglu(autocast_to(dtype, gate, up), autocast_to(dtype, up, gate));
}

}  // namespace

Tensor swiglu(const Tensor& gate, const Tensor& up) { return op(gate, up); }
Tensor swiglu_packed(const Tensor& input) { return packed_op(input); }

TORCH_LIBRARY_FRAGMENT(pylayers, m) {
  op.define_public(m, "swiglu(Tensor gate, Tensor up) -> Tensor", run, autocast);
  forward_op.define_kernel(m, "swiglu_forward(Tensor gate, Tensor up) -> Tensor", forward, allocate_forward);
  backward_op.define_backward(m, kOp, "swiglu_backward(Tensor grad, Tensor gate, Tensor up) -> (Tensor, Tensor)", backward,
                              allocate_backward, backward_formula);
  packed_op.define_public(m, "swiglu_packed(Tensor input) -> Tensor", run_packed);
  packed_forward_op.define_kernel(m, "swiglu_packed_forward(Tensor input) -> Tensor", packed_forward, allocate_packed_forward);
  packed_backward_op.define_backward(m, kPackedOp, "swiglu_packed_backward(Tensor grad, Tensor input) -> Tensor", packed_backward,
                                     allocate_packed_backward, packed_backward_formula);
}

}  // namespace pylayers
