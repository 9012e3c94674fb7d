#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "autograd.h"
#include "epilogue.h"
#include "op.h"
#include "ops.h"
#include "product.h"

namespace pylayers {
namespace {

constexpr auto kOp = "parallel_linear";

using OptionalTensors = c10::List<std::optional<Tensor>>;
using Triple = std::tuple<Tensor, Tensor, Tensor>;

std::string element(const char* list, size_t index) { return std::string(list) + "[" + std::to_string(index) + "]"; }

bool matches(const Tensor& tensor, const Tensor& input) {
  return tensor.device() == input.device() && tensor.scalar_type() == input.scalar_type();
}

void check(const Tensor& input, at::TensorList weights, const Tensors& biases) {
  check_floating(kOp, "input", input);
  TORCH_CHECK_VALUE(!weights.empty(), kOp, ": weights must hold at least one, got none");
  TORCH_CHECK_VALUE(biases.size() == weights.size(), kOp, ": biases must be as many as weights (", weights.size(), "), got ",
                    biases.size());
  for (size_t i = 0; i < weights.size(); ++i) {
    const Tensor &weight = weights[i], &bias = biases[i];
    if (!matches(weight, input)) check_matches(kOp, element("weights", i).c_str(), weight, "input", input);
    TORCH_CHECK_VALUE(weight.dim() == 2, kOp, ": ", element("weights", i), " must have shape (out_features, in_features), got ",
                      weight.sym_sizes());
    TORCH_CHECK_VALUE(input.dim() > 0 && input.sym_size(-1) == weight.sym_size(1), kOp, ": the last dimension of input must be ",
                      weight.sym_size(1), " (in_features of ", element("weights", i), "), got shape ", input.sym_sizes());
    if (!bias.defined()) continue;
    if (!matches(bias, input)) check_matches(kOp, element("biases", i).c_str(), bias, "input", input);
    TORCH_CHECK_VALUE(bias.dim() == 1 && bias.sym_size(0) == weight.sym_size(0), kOp, ": ", element("biases", i),
                      " must have shape (", weight.sym_size(0), ",) (out_features of ", element("weights", i), "), got ",
                      bias.sym_sizes());
  }
}

Tensors unpacked(const OptionalTensors& list) {
  Tensors tensors;
  for (const std::optional<Tensor>& one : list) tensors.push_back(value(one));
  return tensors;
}

// One bias for the columns of all branches: 0 where a branch has none, undefined where none has one.
Tensor joined_bias(at::TensorList weights, const Tensors& biases) {
  if (std::none_of(biases.begin(), biases.end(), [](const Tensor& bias) { return bias.defined(); })) return {};
  Tensors parts = biases;
  for (size_t i = 0; i < parts.size(); ++i)
    if (!parts[i].defined()) parts[i] = at::zeros_symint({weights[i].sym_size(0)}, weights[i].options());
  return at::cat(parts);
}

c10::SymInt total_width(at::TensorList weights) {
  c10::SymInt total = 0;
  for (const Tensor& weight : weights) total += weight.sym_size(0);
  return total;
}

Tensor formula(const Tensor& input, at::TensorList weights, const Tensors& biases, Activation activation) {
  Tensors products;
  for (size_t i = 0; i < weights.size(); ++i) products.push_back(at::linear(input, weights[i], biases[i]));
  return activate(at::cat(products, -1), activation);
}

Tensor allocate_forward(const Tensor& input, at::TensorList weights, const OptionalTensors&) {
  auto sizes = input.sym_sizes().vec();
  sizes.back() = total_width(weights);
  return allocate(input, sizes, input.scalar_type());
}

// body(index, first column) for the branches in order.
template <class Body>
void for_branches(at::TensorList weights, Body&& body) {
  int64_t first = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    body(i, first);
    first += weights[i].size(0);
  }
}

// Every product goes straight to its columns.
Tensor forward(const Tensor& input, at::TensorList weights, const OptionalTensors& biases) {
  const Tensor y = allocate_forward(input, weights, biases), x = flat(input), columns = flat(y);
  for_branches(weights, [&](size_t i, int64_t first) {
    const Tensor out = columns.narrow(1, first, weights[i].size(0));
    const std::optional<Tensor> bias = biases.get(i);
    multiply_to(out, x, weights[i].t(), 1, /*beta=*/value(bias).defined(), value(bias));
  });
  return y;
}

// Gradients of input, of the weights that are asked for, one below the other, and of all biases together. mask: input, whether
// biases are wanted, weights.
Triple allocate_backward(const Tensor& grad, const Tensor& input, at::TensorList weights, at::IntArrayRef mask) {
  c10::SymInt rows = 0;
  for (size_t i = 0; i < weights.size(); ++i)
    if (mask[2 + i]) rows += weights[i].sym_size(0);
  return {mask[0] ? allocate_like(input) : nothing(input), allocate(input, {rows, input.sym_size(-1)}, input.scalar_type()),
          mask[1] ? allocate(input, {grad.sym_size(-1)}, input.scalar_type()) : nothing(input)};
}

Triple backward(const Tensor& grad, const Tensor& input, at::TensorList weights, at::IntArrayRef mask) {
  auto outputs = allocate_backward(grad, input, weights, mask);
  auto& [dinput, dweights, dbiases] = outputs;
  const Tensor g = flat(grad), x = flat(input);
  const Tensor dx = mask[0] ? flat(dinput) : Tensor();
  const bool all = std::all_of(mask.begin() + 2, mask.end(), [](int64_t asked) { return asked; });
  if (all) multiply_to(dweights, g.t(), x);
  int64_t row = 0;
  for_branches(weights, [&](size_t i, int64_t first) {
    const int64_t width = weights[i].size(0);
    const Tensor own = g.narrow(1, first, width);
    if (mask[0]) multiply_to(dx, own, weights[i], 1, /*beta=*/i > 0);
    if (all || !mask[2 + i]) return;
    multiply_to(dweights.narrow(0, row, width), own.t(), x);
    row += width;
  });
  if (mask[1]) at::sum_out(dbiases, g, 0);
  return outputs;
}

Triple backward_formula(const Tensor& grad, const Tensor& input, at::TensorList weights, at::IntArrayRef mask) {
  const Tensor x = flat(input), dz = flat(grad);
  Tensors dweights = {x.narrow(0, 0, 0)};
  c10::SymInt first = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    const auto width = weights[i].sym_size(0);
    if (mask[2 + i]) dweights.push_back(dz.narrow_symint(1, first, width).t().matmul(x));
    first += width;
  }
  return {mask[0] ? grad.matmul(at::cat(weights)) : nothing(input), at::cat(dweights), mask[1] ? dz.sum(0) : nothing(input)};
}

Op<decltype(parallel_linear)> op;
Op<decltype(forward)> forward_op;
Op<decltype(backward)> backward_op;

OptionalTensors packed(at::TensorList biases) {
  OptionalTensors list;
  for (const Tensor& bias : biases) list.push_back(bias.defined() ? std::optional<Tensor>(bias) : std::nullopt);
  return list;
}

// Inputs: input, weights, biases.
const Differentiable kDifferentiable = {
    "pylayers::ParallelBackward",
    [](at::TensorList inputs, Extras&, Tensors& saved) {
      const size_t count = inputs.size() / 2;
      saved = inputs.slice(0, 1 + count).vec();
      return forward_op(inputs[0], inputs.slice(1, count), packed(inputs.slice(1 + count)));
    },
    [](const Tensor& grad, const Tensors& saved, const Extras&, const std::vector<bool>& mask) -> Tensors {
      const at::TensorList weights = at::TensorList(saved).slice(1);
      const size_t count = weights.size();
      const auto biases = mask.begin() + 1 + static_cast<int64_t>(count);
      std::vector<int64_t> asked = {mask[0], std::find(biases, mask.end(), true) != mask.end()};
      asked.insert(asked.end(), mask.begin() + 1, biases);
      const auto [dx, dweights, dbiases] = backward_op(grad, saved[0], weights, asked);
      Tensors gradients(1 + 2 * count);
      gradients[0] = dx;
      c10::SymInt row = 0, first = 0;
      for (size_t i = 0; i < count; ++i) {
        const auto width = weights[i].sym_size(0);
        if (mask[1 + i]) {
          gradients[1 + i] = dweights.narrow_symint(0, row, width);
          row += width;
        }
        if (mask[1 + count + i]) gradients[1 + count + i] = dbiases.narrow_symint(0, first, width);
        first += width;
      }
      return gradients;
    }};

Tensor products(const Tensor& input, at::TensorList weights, const Tensors& biases) {
  Tensors inputs = {input};
  inputs.insert(inputs.end(), weights.begin(), weights.end());
  inputs.insert(inputs.end(), biases.begin(), biases.end());
  if (needs_gradient(tensors_in(at::TensorList(inputs)))) return apply(kDifferentiable, at::TensorList(inputs));
  const at::AutoDispatchBelowADInplaceOrView guard;
  return forward_op(input, weights, packed(biases));
}

// One product over all weights side by side takes a copy of them. It pays where they are small and the rows many, since one call
// then is faster than many narrow ones, and where the backend's own product has its own epilogue.
bool side_by_side(const Tensor& input, at::TensorList weights) {
  constexpr int64_t elements = 1 << 15, rows = 32;
  if (!input.is_meta() && kernels::linear_forward.has(registry::target(kOp, input))) return true;
  const auto features = input.sym_size(-1);
  return total_width(weights) * features <= elements && input.sym_numel() >= features * rows;
}

Tensor run(const Tensor& input, at::TensorList weights, const OptionalTensors& biases, std::optional<std::string_view> activation) {
  const auto kind = parse_activation(kOp, activation);
  const Tensors b = unpacked(biases);
  check(input, weights, b);
  Seen seen = tensors_in(input, weights, at::TensorList(b));
  if (needs_formula(kOp, seen)) return formula(input, weights, b, kind);
  if (side_by_side(input, weights)) return linear(input, at::cat(weights), joined_bias(weights, b), activation);
  if (kind == Activation::none) return products(input, weights, b);
  return epilogue(products(input, weights, Tensors(b.size())), joined_bias(weights, b), 1, kind);
}

Tensor autocast(const Tensor& input, at::TensorList weights, const OptionalTensors& biases,
                std::optional<std::string_view> activation) {
  const c10::impl::ExcludeDispatchKeyGuard guard(c10::autocast_dispatch_keyset);
  const auto dtype = autocast_dtype(input);
  Tensors w;
  for (const Tensor& weight : weights) w.push_back(autocast_to(dtype, weight, input));
  OptionalTensors b;
  for (const std::optional<Tensor>& bias : biases) b.push_back(autocast_to(dtype, bias, input));
  return parallel_linear(autocast_to(dtype, input, input), w, b, activation);
}

}  // namespace

Tensor parallel_linear(const Tensor& input, at::TensorList weights, const OptionalTensors& biases,
                       std::optional<std::string_view> activation) {
  return op(input, weights, biases, activation);
}

TORCH_LIBRARY_FRAGMENT(pylayers, m) {
  op.define_public(m, "parallel_linear(Tensor input, Tensor[] weights, Tensor?[] biases, str? activation=None) -> Tensor", run, autocast);
  forward_op.define_kernel(m, "parallel_linear_forward(Tensor input, Tensor[] weights, Tensor?[] biases) -> Tensor", forward,
                           allocate_forward);
  backward_op.define_backward(m, kOp, "parallel_linear_backward(Tensor grad, Tensor input, Tensor[] weights, int[] mask) "
                                      "-> (Tensor, Tensor, Tensor)",
                              backward, allocate_backward, backward_formula);
}

}  // namespace pylayers
