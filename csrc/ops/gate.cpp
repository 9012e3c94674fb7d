// Gates: activation(gate) · up as swiglu, geglu and reglu, from two tensors or from the halves of one, and relu_squared, whose gate
// is alone. All are one pair of kernels.
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/gelu_backward.h>
#include <ATen/ops/ones_like.h>

#include "autograd.h"
#include "common.h"
#include "epilogue.h"
#include "op.h"
#include "ops.h"

namespace pylayers {
namespace {

constexpr auto kOp = "gate";

void check(const char* name, const Tensor& gate, const Tensor& up) {
  check_floating(name, "gate", gate);
  check_matches(name, "up", up, "gate", gate);
  TORCH_CHECK_VALUE(up.sym_sizes().equals(gate.sym_sizes()), name, ": up must have the shape of gate ", gate.sym_sizes(), ", got ",
                    up.sym_sizes());
}

void check_packed(const char* name, const Tensor& input) {
  check_floating(name, "input", input);
  TORCH_CHECK_VALUE(input.dim() > 0 && input.sym_size(-1) % 2 == 0, name,
                    ": the last dimension of input must be even (the halves gate and up), got shape ", input.sym_sizes());
}

int64_t gelu_kind(const char* name, std::string_view approximate) {
  TORCH_CHECK_VALUE(approximate == "none" || approximate == "tanh", name, ": approximate must be 'none' or 'tanh', got '",
                    std::string(approximate), "'");
  return static_cast<int64_t>(approximate == "tanh" ? Activation::gelu_tanh : Activation::gelu);
}

Pair halves(const Tensor& input) {
  const auto half = input.sym_size(-1) / 2;
  return {input.narrow_symint(-1, 0, half), input.narrow_symint(-1, half, half)};
}

Tensor derivative(const Tensor& x, Activation activation) {
  switch (activation) {
    case Activation::relu: return (x > 0).to(x.scalar_type());
    case Activation::gelu: return at::gelu_backward(at::ones_like(x), x);
    case Activation::gelu_tanh: return at::gelu_backward(at::ones_like(x), x, "tanh");
    default: {
      const Tensor s = x.sigmoid();
      return s * (1 + x * (1 - s));
    }
  }
}

Tensor formula(const Tensor& gate, const OptionalTensor& up, int64_t activation) {
  const auto dtype = accumulation_dtype(gate.scalar_type());
  const Tensor x = gate.to(dtype);
  return (activate(x, static_cast<Activation>(activation)) * (value(up).defined() ? up->to(dtype) : x)).to(gate.scalar_type());
}

Pair backward_formula(const Tensor& grad, const Tensor& gate, const OptionalTensor& up, int64_t activation, std::array<bool, 2> mask) {
  const auto dtype = accumulation_dtype(gate.scalar_type());
  const Tensor x = gate.to(dtype), g = grad.to(dtype), open = g * activate(x, static_cast<Activation>(activation));
  Tensor dgate = nothing(gate);
  if (mask[0]) {
    const bool alone = !value(up).defined();
    dgate = g * (alone ? x : up->to(dtype)) * derivative(x, static_cast<Activation>(activation));
    dgate = (alone ? dgate + open : dgate).to(gate.scalar_type());
  }
  return {dgate, mask[1] ? open.to(gate.scalar_type()) : nothing(gate)};
}

Tensor packed_formula(const Tensor& input, int64_t activation) {
  const auto [gate, up] = halves(input);
  return formula(gate, up, activation);
}

Tensor packed_backward_formula(const Tensor& grad, const Tensor& input, int64_t activation) {
  const auto [gate, up] = halves(input);
  const auto [dgate, dup] = backward_formula(grad, gate, up, activation, {true, true});
  return at::cat({dgate, dup}, -1);
}

// Rows are the last dimension: a view with unit stride there needs no copy.
int64_t row_length(const Tensor& tensor) { return tensor.dim() ? tensor.size(-1) : 1; }

Rows optional_rows(const OptionalTensor& tensor, int64_t dim) { return value(tensor).defined() ? as_rows(*tensor, dim) : Rows(); }

Tensor allocate_forward(const Tensor& gate, const OptionalTensor&, int64_t) { return allocate_like(gate); }

Tensor forward(const Tensor& gate, const OptionalTensor& up, int64_t activation) {
  Tensor y = allocate_forward(gate, up, activation);
  const int64_t dim = row_length(gate);
  const Rows a = as_rows(gate, dim), b = optional_rows(up, dim);
  if (!a.empty())
    kernels::gate_forward(registry::target(kOp, gate), Argument::output(y, {a.rows, dim}), a.input(), b.input(), activation);
  return y;
}

Pair allocate_backward(const Tensor&, const Tensor& gate, const OptionalTensor&, int64_t, std::array<bool, 2> mask) {
  return {mask[0] ? allocate_like(gate) : nothing(gate), mask[1] ? allocate_like(gate) : nothing(gate)};
}

Pair backward(const Tensor& grad, const Tensor& gate, const OptionalTensor& up, int64_t activation, std::array<bool, 2> mask) {
  auto outputs = allocate_backward(grad, gate, up, activation, mask);
  auto& [dgate, dup] = outputs;
  const int64_t dim = row_length(gate);
  const Rows g = as_rows(grad, dim), a = as_rows(gate, dim), b = optional_rows(up, dim);
  if (a.empty()) return outputs;
  kernels::gate_backward(registry::target(kOp, gate), mask[0] ? Argument::output(dgate, {a.rows, dim}) : Argument(),
                         mask[1] ? Argument::output(dup, {a.rows, dim}) : Argument(), g.input(), a.input(), b.input(), activation);
  return outputs;
}

Tensor allocate_packed_forward(const Tensor& input, int64_t) {
  auto sizes = input.sym_sizes().vec();
  sizes.back() = sizes.back() / 2;
  return allocate(input, sizes, input.scalar_type());
}

Tensor packed_forward(const Tensor& input, int64_t activation) {
  Tensor y = allocate_packed_forward(input, activation);
  const int64_t dim = input.size(-1) / 2;
  const Rows x = as_rows(input, 2 * dim);
  if (!x.empty()) {
    kernels::gate_forward(registry::target(kOp, input), Argument::output(y, {x.rows, dim}), x.input(0, dim), x.input(dim, dim),
                          activation);
  }
  return y;
}

Tensor allocate_packed_backward(const Tensor&, const Tensor& input, int64_t) { return allocate_like(input); }

Tensor packed_backward(const Tensor& grad, const Tensor& input, int64_t activation) {
  Tensor dinput = allocate_packed_backward(grad, input, activation);
  const int64_t dim = input.size(-1) / 2;
  const Rows g = as_rows(grad, dim), x = as_rows(input, 2 * dim);
  if (!x.empty()) {
    kernels::gate_backward(registry::target(kOp, input), Argument::output(dinput, {x.rows, dim}, {2 * dim, 1}),
                           Argument::output(dinput, {x.rows, dim}, {2 * dim, 1}, dim), g.input(), x.input(0, dim),
                           x.input(dim, dim), activation);
  }
  return dinput;
}

Op<decltype(swiglu)> swiglu_op;
Op<decltype(swiglu_packed)> swiglu_packed_op;
Op<decltype(geglu)> geglu_op;
Op<decltype(geglu_packed)> geglu_packed_op;
Op<decltype(reglu)> reglu_op;
Op<decltype(reglu_packed)> reglu_packed_op;
Op<decltype(relu_squared)> relu_squared_op;
Op<decltype(forward)> forward_op;
Op<decltype(backward)> backward_op;
Op<decltype(packed_forward)> packed_forward_op;
Op<decltype(packed_backward)> packed_backward_op;

const Differentiable kDifferentiable = {
    "pylayers::GateBackward",
    [](at::TensorList inputs, Extras& extras, Tensors& saved) {
      saved = inputs.vec();
      return forward_op(inputs[0], inputs[1], extras[0].toInt());
    },
    [](const Tensor& grad, const Tensors& saved, const Extras& extras, const std::vector<bool>& mask) -> Tensors {
      auto [dgate, dup] = backward_op(grad, saved[0], saved[1], extras[0].toInt(), {mask[0], mask[1]});
      return {dgate, dup};
    }};

const Differentiable kPackedDifferentiable = {
    "pylayers::PackedGateBackward",
    [](at::TensorList inputs, Extras& extras, Tensors& saved) {
      saved = inputs.vec();
      return packed_forward_op(inputs[0], extras[0].toInt());
    },
    [](const Tensor& grad, const Tensors& saved, const Extras& extras, const std::vector<bool>&) -> Tensors {
      return {packed_backward_op(grad, saved[0], extras[0].toInt())};
    }};

// up is undefined where the gate is alone.
Tensor run(const char* name, const Tensor& gate, const Tensor& up, int64_t activation) {
  if (needs_formula(name, {&gate, &up})) return formula(gate, up, activation);
  if (needs_gradient({&gate, &up})) return apply(kDifferentiable, {gate, up}, {activation});
  const at::AutoDispatchBelowADInplaceOrView guard;
  return forward_op(gate, up, activation);
}

Tensor run_packed(const char* name, const Tensor& input, int64_t activation) {
  check_packed(name, input);
  if (needs_formula(name, {&input})) return packed_formula(input, activation);
  if (needs_gradient({&input})) return apply(kPackedDifferentiable, {input}, {activation});
  const at::AutoDispatchBelowADInplaceOrView guard;
  return packed_forward_op(input, activation);
}

constexpr auto kSilu = static_cast<int64_t>(Activation::silu), kRelu = static_cast<int64_t>(Activation::relu);

Tensor run_swiglu(const Tensor& gate, const Tensor& up) {
  check("swiglu", gate, up);
  return run("swiglu", gate, up, kSilu);
}

Tensor run_geglu(const Tensor& gate, const Tensor& up, std::string_view approximate) {
  const auto activation = gelu_kind("geglu", approximate);
  check("geglu", gate, up);
  return run("geglu", gate, up, activation);
}

Tensor run_reglu(const Tensor& gate, const Tensor& up) {
  check("reglu", gate, up);
  return run("reglu", gate, up, kRelu);
}

Tensor run_relu_squared(const Tensor& input) {
  check_floating("relu_squared", "input", input);
  return run("relu_squared", input, Tensor(), kRelu);
}

Tensor run_swiglu_packed(const Tensor& input) { return run_packed("swiglu_packed", input, kSilu); }
Tensor run_geglu_packed(const Tensor& input, std::string_view approximate) {
  return run_packed("geglu_packed", input, gelu_kind("geglu_packed", approximate));
}
Tensor run_reglu_packed(const Tensor& input) { return run_packed("reglu_packed", input, kRelu); }

// As torch's product does under autocast: the wider of the two dtypes.
template <auto function, class... Others>
Tensor autocast(const Tensor& gate, const Tensor& up, Others... others) {
  const c10::impl::ExcludeDispatchKeyGuard guard(c10::autocast_dispatch_keyset);
  const auto dtype = c10::promoteTypes(gate.scalar_type(), up.scalar_type());
  return function(autocast_to(dtype, gate, up), autocast_to(dtype, up, gate), others...);
}

}  // namespace

Tensor swiglu(const Tensor& gate, const Tensor& up) { return swiglu_op(gate, up); }
Tensor swiglu_packed(const Tensor& input) { return swiglu_packed_op(input); }
Tensor geglu(const Tensor& gate, const Tensor& up, std::string_view approximate) { return geglu_op(gate, up, approximate); }
Tensor geglu_packed(const Tensor& input, std::string_view approximate) { return geglu_packed_op(input, approximate); }
Tensor reglu(const Tensor& gate, const Tensor& up) { return reglu_op(gate, up); }
Tensor reglu_packed(const Tensor& input) { return reglu_packed_op(input); }
Tensor relu_squared(const Tensor& input) { return relu_squared_op(input); }

TORCH_LIBRARY_FRAGMENT(pylayers, m) {
  swiglu_op.define_public(m, "swiglu(Tensor gate, Tensor up) -> Tensor", run_swiglu, autocast<swiglu>);
  swiglu_packed_op.define_public(m, "swiglu_packed(Tensor input) -> Tensor", run_swiglu_packed);
  geglu_op.define_public(m, "geglu(Tensor gate, Tensor up, str approximate=\"none\") -> Tensor", run_geglu,
                         autocast<geglu, std::string_view>);
  geglu_packed_op.define_public(m, "geglu_packed(Tensor input, str approximate=\"none\") -> Tensor", run_geglu_packed);
  reglu_op.define_public(m, "reglu(Tensor gate, Tensor up) -> Tensor", run_reglu, autocast<reglu>);
  reglu_packed_op.define_public(m, "reglu_packed(Tensor input) -> Tensor", run_reglu_packed);
  relu_squared_op.define_public(m, "relu_squared(Tensor input) -> Tensor", run_relu_squared);
  forward_op.define_kernel(m, "gate_forward(Tensor gate, Tensor? up, int activation) -> Tensor", forward, allocate_forward);
  backward_op.define_backward(m, kOp, "gate_backward(Tensor grad, Tensor gate, Tensor? up, int activation, bool[2] mask) "
                                      "-> (Tensor, Tensor)",
                              backward, allocate_backward, backward_formula);
  packed_forward_op.define_kernel(m, "gate_packed_forward(Tensor input, int activation) -> Tensor", packed_forward,
                                  allocate_packed_forward);
  packed_backward_op.define_backward(m, kOp, "gate_packed_backward(Tensor grad, Tensor input, int activation) -> Tensor",
                                     packed_backward, allocate_packed_backward, packed_backward_formula);
}

}  // namespace pylayers
