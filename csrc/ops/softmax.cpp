// softmax and log_softmax over any dimension, and the softmax of attention scores, scaled and masked on the way.
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>

#include <limits>

#include "autograd.h"
#include "common.h"
#include "op.h"
#include "ops.h"

namespace pylayers {
namespace {

constexpr auto kMaskedOp = "scaled_masked_softmax";
constexpr double kInfinity = std::numeric_limits<double>::infinity();

const char* name_of(bool log) { return log ? "log_softmax" : "softmax"; }

int64_t checked_dim(const char* name, const Tensor& input, int64_t dim) {
  check_floating(name, "input", input);
  const int64_t dims = std::max<int64_t>(input.dim(), 1);
  TORCH_CHECK_VALUE(-dims <= dim && dim < dims, name, ": dim must be between ", -dims, " and ", dims - 1, " for an input of ",
                    input.dim(), " dimensions, got ", dim);
  return dim < 0 ? dim + dims : dim;
}

void check_mask(const Tensor& input, const Tensor& mask) {
  check_floating(kMaskedOp, "input", input);
  TORCH_CHECK_VALUE(input.dim() >= 2, kMaskedOp, ": input must have shape (..., queries, keys), got ", input.sym_sizes());
  if (!mask.defined()) return;
  TORCH_CHECK(mask.device() == input.device(), kMaskedOp, ": mask must be on the device of input (", input.device(), "), got ",
              mask.device());
  TORCH_CHECK_TYPE(mask.scalar_type() == at::kBool || mask.scalar_type() == input.scalar_type(), kMaskedOp,
                   ": mask must be bool or have the dtype of input (", toString(input.scalar_type()), "), got ",
                   toString(mask.scalar_type()));
  const auto sizes = input.sym_sizes(), given = mask.sym_sizes();
  bool fits = given.size() <= sizes.size();
  for (size_t i = 1; fits && i <= given.size(); ++i)
    fits = given[given.size() - i] == 1 || given[given.size() - i] == sizes[sizes.size() - i];
  TORCH_CHECK_VALUE(fits, kMaskedOp, ": mask must broadcast to the shape of input ", sizes, ", got ", given);
}

// ---- along a dimension

Tensor formula(const Tensor& input, int64_t dim, bool log) {
  const Tensor x = input.to(accumulation_dtype(input.scalar_type()));
  return (log ? at::log_softmax(x, dim) : at::softmax(x, dim)).to(input.scalar_type());
}

Tensor backward_formula(const Tensor& grad, const Tensor& output, int64_t dim, bool log) {
  const auto dtype = accumulation_dtype(output.scalar_type());
  const Tensor g = grad.to(dtype), y = output.to(dtype);
  const Tensor dx = log ? g - y.exp() * g.sum(dim, true) : y * (g - (g * y).sum(dim, true));
  return dx.to(output.scalar_type());
}

// A contiguous tensor as [outer, dim, inner].
struct Columns {
  int64_t outer, dim, inner;
  Columns(const Tensor& tensor, int64_t axis)
      : outer(c10::multiply_integers(tensor.sizes().slice(0, axis))),
        dim(tensor.dim() ? tensor.size(axis) : 1),
        inner(tensor.dim() ? c10::multiply_integers(tensor.sizes().slice(axis + 1)) : 1) {}
  Argument input(const Tensor& tensor) const { return Argument::input(tensor, {outer, dim, inner}); }
  Argument output(const Tensor& tensor) const { return Argument::output(tensor, {outer, dim, inner}); }
};

Tensor allocate_forward(const Tensor& input, int64_t, bool) { return allocate_like(input); }

Tensor forward(const Tensor& input, int64_t dim, bool log) {
  Tensor y = allocate_forward(input, dim, log);
  if (input.numel() == 0) return y;
  const Columns sizes(input, dim);
  const auto target = registry::target(name_of(log), input);
  if (sizes.inner == 1) {
    const Rows x = as_rows(input, sizes.dim);
    kernels::softmax_forward(target, Argument::output(y, {x.rows, x.dim}), x.input(), int64_t{log});
  } else {
    const Tensor x = input.contiguous();
    kernels::softmax_columns_forward(target, sizes.output(y), sizes.input(x), int64_t{log});
  }
  return y;
}

Tensor allocate_backward(const Tensor&, const Tensor& output, int64_t, bool) { return allocate_like(output); }

Tensor backward(const Tensor& grad, const Tensor& output, int64_t dim, bool log) {
  Tensor dx = allocate_backward(grad, output, dim, log);
  if (output.numel() == 0) return dx;
  const Columns sizes(output, dim);
  const auto target = registry::target(name_of(log), output);
  if (sizes.inner == 1) {
    const Rows g = as_rows(grad, sizes.dim), y = as_rows(output, sizes.dim);
    kernels::softmax_backward(target, Argument::output(dx, {y.rows, y.dim}), g.input(), y.input(), int64_t{log});
  } else {
    const Tensor g = grad.contiguous(), y = output.contiguous();
    kernels::softmax_columns_backward(target, sizes.output(dx), sizes.input(g), sizes.input(y), int64_t{log});
  }
  return dx;
}

// ---- attention scores

Tensor masked_formula(const Tensor& input, const OptionalTensor& mask, double scale, bool causal) {
  const auto dtype = accumulation_dtype(input.scalar_type());
  const Tensor none = at::full({}, -kInfinity, input.options().dtype(dtype));
  Tensor scores = input.to(dtype) * scale;
  if (value(mask).defined()) scores = mask->scalar_type() == at::kBool ? at::where(*mask, scores, none) : scores + mask->to(dtype);
  if (causal) {
    const int64_t queries = input.size(-2), keys = input.size(-1);
    const auto options = input.options().dtype(at::kLong);
    scores = at::where(at::arange(keys, options) <= at::arange(queries, options).unsqueeze(-1) + (keys - queries), scores, none);
  }
  const Tensor nothing = (scores == none).all(-1, true), zero = at::zeros_like(none);
  return at::where(nothing, zero, at::softmax(at::where(nothing, zero, scores), -1)).to(input.scalar_type());
}

Tensor masked_backward_formula(const Tensor& grad, const Tensor& output, double scale, bool) {
  return (backward_formula(grad, output, -1, false) * scale).to(output.scalar_type());
}

// A mask broadcast over the rows of the scores: [outer, inner, queries, keys], with stride 0 where it is the same again.
struct Mask {
  Tensor tensor;
  std::array<int64_t, 4> size, stride;

  Mask(const Tensor& mask, at::IntArrayRef sizes) {
    const auto dims = static_cast<int64_t>(sizes.size());
    tensor = mask;
    if (mask.dim() == 0 || mask.stride(-1) != 1 || mask.size(-1) != sizes.back()) {
      auto own = mask.dim() ? mask.sizes().vec() : std::vector<int64_t>{1};
      own.back() = sizes.back();
      tensor = mask.expand(own).contiguous();
    }
    const Tensor view = tensor.expand(sizes);
    if (collapse(view, dims)) return;
    tensor = view.contiguous();
    collapse(tensor, dims);
  }

  Argument input() const { return Argument::input(tensor, size, stride); }

 private:
  // False if the leading dimensions are more than two runs of equal steps.
  bool collapse(const Tensor& view, int64_t dims) {
    size = {1, 1, view.size(dims - 2), view.size(dims - 1)};
    stride = {0, 0, view.stride(dims - 2), 1};
    int group = 2;
    for (int64_t axis = dims - 3; axis >= 0; --axis) {
      if (view.size(axis) == 1) continue;
      if (group < 2 && view.stride(axis) == stride[group] * size[group]) {
        size[group] *= view.size(axis);
        continue;
      }
      if (--group < 0) return false;
      size[group] = view.size(axis);
      stride[group] = view.stride(axis);
    }
    return true;
  }
};

Tensor allocate_masked_forward(const Tensor& input, const OptionalTensor&, double, bool) { return allocate_like(input); }

Tensor masked_forward(const Tensor& input, const OptionalTensor& mask, double scale, bool causal) {
  Tensor y = allocate_masked_forward(input, mask, scale, causal);
  if (input.numel() == 0) return y;
  const Rows x = as_rows(input, input.size(-1));
  const std::optional<Mask> given = value(mask).defined() ? std::make_optional<Mask>(*mask, input.sizes()) : std::nullopt;
  const bool is_bool = given && given->tensor.scalar_type() == at::kBool;
  kernels::softmax_masked_forward(registry::target(kMaskedOp, input), Argument::output(y, {x.rows, x.dim}), x.input(),
                                  given && !is_bool ? given->input() : Argument(), is_bool ? given->input() : Argument(), scale,
                                  input.size(-2), int64_t{causal});
  return y;
}

Tensor allocate_masked_backward(const Tensor&, const Tensor& output, double, bool) { return allocate_like(output); }

Tensor masked_backward(const Tensor& grad, const Tensor& output, double scale, bool causal) {
  Tensor dx = allocate_masked_backward(grad, output, scale, causal);
  if (output.numel() == 0) return dx;
  const int64_t dim = output.size(-1);
  const Rows g = as_rows(grad, dim), y = as_rows(output, dim);
  kernels::softmax_masked_backward(registry::target(kMaskedOp, output), Argument::output(dx, {y.rows, dim}), g.input(), y.input(),
                                   scale, output.size(-2), int64_t{causal});
  return dx;
}

Op<decltype(softmax)> softmax_op;
Op<decltype(log_softmax)> log_softmax_op;
Op<decltype(scaled_masked_softmax)> masked_op;
Op<decltype(forward)> forward_op;
Op<decltype(backward)> backward_op;
Op<decltype(masked_forward)> masked_forward_op;
Op<decltype(masked_backward)> masked_backward_op;

const Differentiable kDifferentiable = {
    "pylayers::SoftmaxBackward",
    [](at::TensorList inputs, Extras& extras, Tensors& saved) {
      saved = {forward_op(inputs[0], extras[0].toInt(), extras[1].toInt())};
      return saved[0];
    },
    [](const Tensor& grad, const Tensors& saved, const Extras& extras, const std::vector<bool>&) -> Tensors {
      return {backward_op(grad, saved[0], extras[0].toInt(), extras[1].toInt())};
    }};

const Differentiable kMaskedDifferentiable = {
    "pylayers::ScaledMaskedSoftmaxBackward",
    [](at::TensorList inputs, Extras& extras, Tensors& saved) {
      saved = {masked_forward_op(inputs[0], inputs[1], extras[0].toDouble(), extras[1].toInt())};
      return saved[0];
    },
    [](const Tensor& grad, const Tensors& saved, const Extras& extras, const std::vector<bool>&) -> Tensors {
      return {masked_backward_op(grad, saved[0], extras[0].toDouble(), extras[1].toInt()), Tensor()};
    }};

template <bool log>
Tensor run(const Tensor& input, int64_t dim) {
  dim = checked_dim(name_of(log), input, dim);
  if (needs_formula(name_of(log), {&input})) return formula(input, dim, log);
  if (needs_gradient({&input})) return apply(kDifferentiable, {input}, {dim, int64_t{log}});
  const at::AutoDispatchBelowADInplaceOrView guard;
  return forward_op(input, dim, log);
}

Tensor run_masked(const Tensor& input, const OptionalTensor& mask, double scale, bool causal) {
  check_mask(input, value(mask));
  if (needs_formula(kMaskedOp, {&input, &value(mask)}) || needs_gradient({&value(mask)}))
    return masked_formula(input, mask, scale, causal);
  if (needs_gradient({&input})) return apply(kMaskedDifferentiable, {input, value(mask)}, {scale, int64_t{causal}});
  const at::AutoDispatchBelowADInplaceOrView guard;
  return masked_forward_op(input, mask, scale, causal);
}

// As torch's softmax does under autocast: float32 comes out on a GPU, the dtype of the input on a CPU.
template <auto function>
Tensor autocast(const Tensor& input, int64_t dim) {
  const c10::impl::ExcludeDispatchKeyGuard guard(c10::autocast_dispatch_keyset);
  const bool widens = input.is_cuda() && (input.scalar_type() == at::kHalf || input.scalar_type() == at::kBFloat16);
  return function(widens ? autocast_to(at::kFloat, input, input) : input, dim);
}

// The dtype of the scores decides: they are computed in float32 anyway.
Tensor masked_autocast(const Tensor& input, const OptionalTensor& mask, double scale, bool causal) {
  const c10::impl::ExcludeDispatchKeyGuard guard(c10::autocast_dispatch_keyset);
  return scaled_masked_softmax(input, autocast_to(input.scalar_type(), mask, input), scale, causal);
}

}  // namespace

Tensor softmax(const Tensor& input, int64_t dim) { return softmax_op(input, dim); }
Tensor log_softmax(const Tensor& input, int64_t dim) { return log_softmax_op(input, dim); }
Tensor scaled_masked_softmax(const Tensor& input, const OptionalTensor& mask, double scale, bool causal) {
  return masked_op(input, mask, scale, causal);
}

TORCH_LIBRARY_FRAGMENT(pylayers, m) {
  softmax_op.define_public(m, "softmax(Tensor input, int dim) -> Tensor", run<false>, autocast<softmax>);
  log_softmax_op.define_public(m, "log_softmax(Tensor input, int dim) -> Tensor", run<true>, autocast<log_softmax>);
  masked_op.define_public(m, "scaled_masked_softmax(Tensor input, Tensor? mask=None, float scale=1.0, bool causal=False) -> Tensor",
                          run_masked, masked_autocast);
  forward_op.define_kernel(m, "softmax_forward(Tensor input, int dim, bool log) -> Tensor", forward, allocate_forward);
  backward_op.define_backward(m, "softmax", "softmax_backward(Tensor grad, Tensor output, int dim, bool log) -> Tensor", backward,
                              allocate_backward, backward_formula);
  masked_forward_op.define_kernel(m, "softmax_masked_forward(Tensor input, Tensor? mask, float scale, bool causal) -> Tensor",
                                  masked_forward, allocate_masked_forward);
  masked_backward_op.define_backward(m, kMaskedOp,
                                     "softmax_masked_backward(Tensor grad, Tensor output, float scale, bool causal) -> Tensor",
                                     masked_backward, allocate_masked_backward, masked_backward_formula);
}

}  // namespace pylayers
