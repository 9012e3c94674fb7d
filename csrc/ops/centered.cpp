#include <ATen/TensorOperators.h>
#include <ATen/WrapDimUtils.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include "../cuda/parts.h"
#include "autograd.h"
#include "common.h"
#include "op.h"
#include "ops.h"

namespace pylayers {
namespace {

constexpr auto kCenter = "center";
constexpr auto kOp = "centered_affine";

using Pair = std::tuple<Tensor, Tensor>;
using Triple = std::tuple<Tensor, Tensor, Tensor>;

int64_t checked_dim(const char* op, int64_t dim, const Tensor& input) {
  TORCH_CHECK_VALUE(dim >= -input.dim() && dim < input.dim(), op, ": dim must be between ", -input.dim(), " and ", input.dim() - 1,
                    " (input has ", input.dim(), " dimensions), got ", dim);
  return dim < 0 ? dim + input.dim() : dim;
}

// The dimensions [first, last) that the mean is taken over.
std::pair<int64_t, int64_t> range_of(const Tensor& input, at::OptionalIntArrayRef dim) {
  if (!dim) return {0, input.dim()};
  TORCH_CHECK_VALUE(!dim->empty(), kCenter, ": dim must name at least one dimension, or be None for all, got ()");
  std::vector<int64_t> dims;
  for (const auto one : *dim) dims.push_back(checked_dim(kCenter, one, input));
  std::sort(dims.begin(), dims.end());
  for (size_t i = 1; i < dims.size(); ++i)
    TORCH_CHECK_VALUE(dims[i] == dims[i - 1] + 1, kCenter, ": dim must name dimensions that lie next to each other, each once, got ",
                      *dim);
  return {dims.front(), dims.back() + 1};
}

void check_vector(const char* name, const Tensor& vector, const Tensor& input) {
  if (!vector.defined()) return;
  check_matches(kOp, name, vector, "input", input);
  TORCH_CHECK_VALUE(vector.dim() == 1 && vector.sym_size(0) == input.sym_size(-1), kOp, ": ", name, " must have shape (",
                    input.sym_size(-1), ",) (the last dimension of input), got ", vector.sym_sizes());
}

void check(const Tensor& input, const Tensor& weight, const Tensor& bias) {
  check_floating(kOp, "input", input);
  TORCH_CHECK_VALUE(input.dim() > 0, kOp, ": input must have at least one dimension, got shape []");
  check_vector("weight", weight, input);
  check_vector("bias", bias, input);
}

std::vector<int64_t> dims_between(int64_t first, int64_t last) {
  std::vector<int64_t> dims(last - first);
  for (int64_t i = first; i < last; ++i) dims[i - first] = i;
  return dims;
}

Tensor minus_mean(const Tensor& x, int64_t first, int64_t last) {
  return first == last ? x - x : x - x.mean(dims_between(first, last), true);  // without dimensions it is its own mean
}

Tensor formula(const Tensor& input, const OptionalTensor& weight, const OptionalTensor& bias, int64_t first, int64_t last) {
  const auto dtype = accumulation_dtype(input.scalar_type());
  Tensor y = minus_mean(input.to(dtype), first, last);
  if (value(weight).defined()) y = y * weight->to(dtype);
  if (value(bias).defined()) y = y + bias->to(dtype);
  return y.to(input.scalar_type());
}

Triple backward_formula(const Tensor& grad, const OptionalTensor& input, const OptionalTensor& weight, const OptionalTensor&,
                        int64_t dim, std::array<bool, 3> mask) {
  const auto stored = grad.scalar_type(), dtype = accumulation_dtype(stored);
  const Tensor g = grad.to(dtype);
  Tensor dx = nothing(grad), dweight = nothing(grad), dbias = nothing(grad);
  if (mask[0]) dx = minus_mean(value(weight).defined() ? g * weight->to(dtype) : g, dim, dim + 1).to(stored);
  const auto to_features = [&](const Tensor& t) { return t.sum_to_size_symint({grad.sym_size(-1)}).to(stored); };
  if (mask[1]) dweight = to_features(g * minus_mean(input->to(dtype), dim, dim + 1));
  if (mask[2]) dbias = to_features(g);
  return {dx, dweight, dbias};
}

// On a CPU: what one part of a sum is over, so that the parts are in the cache and keep several threads busy.
constexpr int64_t kPartOfRow = 16384, kPartOfColumn = 64;

// A tensor as [outer, n, inner] with the mean over n. `along`: the numbers of a mean follow each other in a row.
struct Means {
  int64_t outer, n, inner;
  bool along;

  Means(const Tensor& tensor, int64_t first, int64_t last, bool features)
      : outer(c10::multiply_integers(tensor.sizes().slice(0, first))),
        n(c10::multiply_integers(tensor.sizes().slice(first, last - first))),
        inner(c10::multiply_integers(tensor.sizes().slice(last))),
        along(features ? last == tensor.dim() : inner == 1) {}

  int64_t dim() const { return along ? n : inner; }
  int64_t count() const { return along ? 0 : n; }
  int64_t parts(const Tensor& tensor) const {
    if (splits_for_gpu(tensor)) return cuda_mean_parts(outer, n, inner, along);
    if (along) return n > 2 * kPartOfRow ? n / kPartOfRow : 0;
    return n > kPartOfColumn ? std::min<int64_t>((n + kPartOfColumn - 1) / kPartOfColumn, 512) : 0;
  }
  Tensor workspace(const Tensor& like, int64_t parts) const {
    return empty(like, along ? std::vector<int64_t>{outer, parts} : std::vector<int64_t>{outer * parts, inner});
  }
  Tensor mean(const Tensor& like) const { return along ? empty(like, {outer}) : empty(like, {outer, inner}); }
  static Tensor empty(const Tensor& like, at::IntArrayRef sizes) {
    return at::empty(sizes, like.options().dtype(accumulation_dtype(like.scalar_type())));
  }
};

Argument output(const Tensor& tensor) { return tensor.defined() ? Argument::output(tensor, tensor.sizes()) : Argument(); }

// Outputs y and the means (without elements unless they are wanted).
Pair allocate_forward(const Tensor& input, const OptionalTensor& weight, const OptionalTensor& bias, int64_t first, int64_t last,
                      bool save) {
  if (!save) return {allocate_like(input), nothing(input)};
  std::vector<c10::SymInt> sizes = {c10::multiply_integers(input.sym_sizes().slice(0, first))};
  const bool features = value(weight).defined() || value(bias).defined();
  const auto inner = c10::multiply_integers(input.sym_sizes().slice(last));
  if (features ? last < input.dim() : inner != 1) sizes.push_back(inner);
  return {allocate_like(input), allocate(input, sizes, accumulation_dtype(input.scalar_type()))};
}

Pair forward(const Tensor& input, const OptionalTensor& weight, const OptionalTensor& bias, int64_t first, int64_t last, bool save) {
  auto outputs = allocate_forward(input, weight, bias, first, last, save);
  if (input.numel() == 0) return outputs;
  auto& [y, saved] = outputs;
  const Tensor w = contiguous(weight), b = contiguous(bias);
  const Means means(input, first, last, w.defined() || b.defined());
  const int64_t parts = means.parts(input);
  const Rows x = as_rows(input, means.dim());
  const Tensor partial = parts ? means.workspace(input, parts) : Tensor();
  const Tensor mean = save ? saved : parts ? means.mean(input) : Tensor();
  kernels::centered_forward(registry::target(kOp, input), Argument::output(y, {x.rows, x.dim}), output(mean), output(partial),
                            x.input(), vector(w), vector(b), means.count());
  return outputs;
}

Triple allocate_backward(const Tensor& grad, const OptionalTensor&, const OptionalTensor&, const OptionalTensor&, int64_t,
                         std::array<bool, 3> mask) {
  const auto of_features = [&] { return allocate(grad, {grad.sym_size(-1)}, grad.scalar_type()); };
  return {mask[0] ? allocate_like(grad) : nothing(grad), mask[1] ? of_features() : nothing(grad),
          mask[2] ? of_features() : nothing(grad)};
}

Triple backward(const Tensor& grad, const OptionalTensor& input, const OptionalTensor& weight, const OptionalTensor& mean, int64_t dim,
                std::array<bool, 3> mask) {
  auto outputs = allocate_backward(grad, input, weight, mean, dim, mask);
  auto& [dx, dweight, dbias] = outputs;
  if (grad.numel() == 0) {
    if (mask[1]) dweight.zero_();
    if (mask[2]) dbias.zero_();
    return outputs;
  }
  const Means means(grad, dim, dim + 1, true);
  const Rows g = as_rows(grad, means.dim()), x = mask[1] ? as_rows(*input, means.dim()) : Rows();
  const Tensor w = contiguous(weight), m = mask[1] ? mean->contiguous() : Tensor();
  const int64_t parts = means.parts(grad);
  Tensor partial, grad_mean, row_partial;
  if (mask[0] && parts) {
    grad_mean = means.mean(grad);
    if (means.along) row_partial = means.workspace(grad, parts);
  }
  const int64_t shares = means.along ? sum_parts(grad, g.rows, g.dim) : parts ? means.outer * parts : std::min<int64_t>(means.outer, 264);
  if (mask[1] || mask[2] || (grad_mean.defined() && !means.along)) partial = Means::empty(grad, {mask[1] ? 2 : 1, shares, g.dim});
  kernels::centered_backward(registry::target(kOp, grad), mask[0] ? Argument::output(dx, {g.rows, g.dim}) : Argument(),
                             mask[1] ? output(dweight) : Argument(), mask[2] ? output(dbias) : Argument(), output(partial),
                             output(grad_mean), output(row_partial), g.input(), x.input(), vector(w),
                             m.defined() ? Argument::input(m, m.sizes()) : Argument(), means.count());
  return outputs;
}

Op<decltype(center)> center_op;
Op<decltype(centered_affine)> op;
Op<decltype(forward)> forward_op;
Op<decltype(backward)> backward_op;

// The gradient is centered as the input was: the same op, which is therefore differentiable again.
const Differentiable kDifferentiableCenter = {
    "pylayers::CenterBackward",
    [](at::TensorList inputs, Extras& extras, Tensors&) {
      return std::get<0>(forward_op(inputs[0], {}, {}, extras[0].toInt(), extras[1].toInt(), false));
    },
    [](const Tensor& grad, const Tensors&, const Extras& extras, const std::vector<bool>&) -> Tensors {
      const auto dims = dims_between(extras[0].toInt(), extras[1].toInt());
      return {center_op(grad, dims.empty() ? at::OptionalIntArrayRef() : at::OptionalIntArrayRef(dims))};
    }};

// x and the means are saved for the gradient of the weight alone.
const Differentiable kDifferentiable = {
    "pylayers::CenteredAffineBackward",
    [](at::TensorList inputs, Extras& extras, Tensors& saved) {
      const int64_t dim = extras[0].toInt();
      const bool save = inputs[1].defined() && inputs[1].requires_grad();
      auto [y, mean] = forward_op(inputs[0], inputs[1], inputs[2], dim, dim + 1, save);
      saved = save ? Tensors{inputs[0], inputs[1], mean} : Tensors{Tensor(), inputs[1], Tensor()};
      return y;
    },
    [](const Tensor& grad, const Tensors& saved, const Extras& extras, const std::vector<bool>& mask) -> Tensors {
      auto [dx, dweight, dbias] =
          backward_op(grad, saved[0], saved[1], saved[2], extras[0].toInt(), {mask[0], mask[1], mask[2]});
      return {dx, dweight, dbias};
    }};

Tensor run_center(const Tensor& input, at::OptionalIntArrayRef dim) {
  check_floating(kCenter, "input", input);
  const auto [first, last] = range_of(input, dim);
  if (needs_formula(kCenter, {&input})) return formula(input, {}, {}, first, last);
  if (needs_gradient({&input})) return apply(kDifferentiableCenter, {input}, {first, last});
  const at::AutoDispatchBelowADInplaceOrView guard;
  return std::get<0>(forward_op(input, {}, {}, first, last, false));
}

Tensor run(const Tensor& input, const OptionalTensor& weight, const OptionalTensor& bias, int64_t dim) {
  check(input, value(weight), value(bias));
  dim = checked_dim(kOp, dim, input);
  const Tensor &w = value(weight), &b = value(bias);
  if (needs_formula(kOp, {&input, &w, &b})) return formula(input, weight, bias, dim, dim + 1);
  if (needs_gradient({&input, &w, &b})) return apply(kDifferentiable, {input, w, b}, {dim});
  const at::AutoDispatchBelowADInplaceOrView guard;
  return std::get<0>(forward_op(input, weight, bias, dim, dim + 1, false));
}

// As rms_norm does under autocast: the dtype of the input decides.
Tensor autocast(const Tensor& input, const OptionalTensor& weight, const OptionalTensor& bias, int64_t dim) {
  const c10::impl::ExcludeDispatchKeyGuard guard(c10::autocast_dispatch_keyset);
  const auto dtype = input.scalar_type();
  return centered_affine(input, autocast_to(dtype, weight, input), autocast_to(dtype, bias, input), dim);
}

}  // namespace

Tensor center(const Tensor& input, at::OptionalIntArrayRef dim) { return center_op(input, dim); }
Tensor centered_affine(const Tensor& input, const OptionalTensor& weight, const OptionalTensor& bias, int64_t dim) {
  return op(input, weight, bias, dim);
}

TORCH_LIBRARY_FRAGMENT(pylayers, m) {
  center_op.define_public(m, "center(Tensor input, int[]? dim=None) -> Tensor", run_center);
  op.define_public(m, "centered_affine(Tensor input, Tensor? weight, Tensor? bias, int dim=0) -> Tensor", run, autocast);
  forward_op.define_kernel(m, "centered_forward(Tensor input, Tensor? weight, Tensor? bias, int first, int last, bool save) "
                              "-> (Tensor, Tensor)", forward, allocate_forward);
  backward_op.define_backward(m, kOp, "centered_affine_backward(Tensor grad, Tensor? input, Tensor? weight, Tensor? mean, int dim, "
                                      "bool[3] mask) -> (Tensor, Tensor, Tensor)",
                              backward, allocate_backward, backward_formula);
}

}  // namespace pylayers
