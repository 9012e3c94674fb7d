// The cross entropy of logits with classes or with class probabilities, its reduction, and its gradient by the logits.
//
// The logits are read once for the loss and once more, with one write, for the gradient. What the two passes share is a few numbers
// for each row; nothing is read back from a GPU, so how many targets count is a tensor.
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>

#include "autograd.h"
#include "common.h"
#include "losses.h"
#include "op.h"
#include "ops.h"

namespace pylayers {
namespace {

constexpr auto kOp = "cross_entropy";

using Four = std::tuple<Tensor, Tensor, Tensor, Tensor>;

Tensor classes_last(const Tensor& input) { return input.dim() > 2 ? input.movedim(1, -1) : input; }
Tensor classes_back(const Tensor& tensor) { return tensor.dim() > 2 ? tensor.movedim(-1, 1) : tensor; }

void check(const Tensor& input, const Tensor& target, const Tensor& weight, int64_t ignore_index, double smoothing,
           std::optional<double> softcap) {
  check_floating(kOp, "input", input);
  TORCH_CHECK_VALUE(input.dim() > 0, kOp, ": input must have shape (classes), (batch, classes) or (batch, classes, ...), got ()");
  check_loss(kOp, input.sym_sizes(), input, target, weight, ignore_index, smoothing, softcap);
}

// Rows of logits and what belongs to them, as kernels see them.
struct Arguments {
  Rows x, soft;
  Tensor classes, weight;

  Arguments(const Tensor& input, const Tensor& target, const OptionalTensor& given) : weight(contiguous(given)) {
    const Tensor last = classes_last(input);
    x = as_rows(last, last.size(-1));
    if (of_probabilities(target)) {
      soft = as_rows(classes_last(target), x.dim);
    } else {
      classes = target.contiguous();
    }
  }
  Argument target() const { return classes.defined() ? Argument::input(classes, {x.rows}) : Argument(); }
};

Four allocate_forward(const Tensor& input, const Tensor&, const OptionalTensor&, int64_t, double, double, double) {
  const auto sizes = rows_shape(input.sym_sizes());
  const auto one = [&] { return allocate(input, sizes, accumulation_dtype(input.scalar_type())); };
  return {one(), one(), one(), one()};
}

Four forward(const Tensor& input, const Tensor& target, const OptionalTensor& weight, int64_t ignore_index, double smoothing,
             double z_loss, double softcap) {
  Four outputs = allocate_forward(input, target, weight, ignore_index, smoothing, z_loss, softcap);
  const Arguments own(input, target, weight);
  if (own.x.empty()) return outputs;
  check_range(kOp, target, own.x.dim, ignore_index);
  const auto output = [&](const Tensor& one) { return Argument::output(one, {own.x.rows}); };
  auto& [loss, top, scale, share] = outputs;
  kernels::cross_entropy_forward(registry::target(kOp, input), output(loss), output(top), output(scale), output(share), own.x.input(),
                                 own.target(), own.soft.input(), vector(own.weight), ignore_index, smoothing, z_loss, softcap);
  return outputs;
}

Tensor allocate_backward(const Tensor&, const Tensor& input, const Tensor&, const OptionalTensor&, const Tensor&, const Tensor&,
                         const Tensor&, int64_t, double, double, double) {
  auto sizes = classes_last(input).sym_sizes().vec();
  return classes_back(allocate(input, sizes, input.scalar_type()));
}

// grad has the dtype acc, a number for each row.
Tensor backward(const Tensor& grad, const Tensor& input, const Tensor& target, const OptionalTensor& weight, const Tensor& top,
                const Tensor& scale, const Tensor& share, int64_t ignore_index, double smoothing, double z_loss, double softcap) {
  Tensor dx = allocate_backward(grad, input, target, weight, top, scale, share, ignore_index, smoothing, z_loss, softcap);
  const Arguments own(input, target, weight);
  if (own.x.empty()) return dx;
  const Rows g = as_rows(grad, 1);
  const Tensor t = top.contiguous(), factor = scale.contiguous(), counted = share.contiguous(), to = classes_last(dx);
  const bool spread = of_probabilities(target) || smoothing != 0;
  const auto numbers = [&](const Tensor& one) { return Argument::input(one, {own.x.rows}); };
  kernels::cross_entropy_backward(registry::target(kOp, input), Argument::output(to, {own.x.rows, own.x.dim}),
                                  Argument::input(g.tensor, {own.x.rows}, {g.stride}), own.x.input(), own.target(), own.soft.input(),
                                  spread ? vector(own.weight) : Argument(), numbers(t), numbers(factor), numbers(counted), ignore_index, smoothing, softcap);
  return dx;
}

Tensor backward_formula(const Tensor& grad, const Tensor& input, const Tensor& target, const OptionalTensor& weight, const Tensor&,
                        const Tensor&, const Tensor&, int64_t ignore_index, double smoothing, double z_loss, double softcap) {
  return PlainLoss(kOp, input, target, weight, {ignore_index, smoothing, z_loss, softcap}).gradient(grad);
}

Op<decltype(cross_entropy)> op;
Op<decltype(forward)> forward_op;
Op<decltype(backward)> backward_op;

enum Place { kReduction, kIgnoreIndex, kSmoothing, kZLoss, kSoftcap, kDtype };

Tensor run_forward(const Tensor& input, const Tensor& target, const Tensor& weight, const Extras& extras, Tensors* saved) {
  const auto reduction = static_cast<Reduction>(extras[kReduction].toInt());
  const auto [loss, top, scale, share] =
      forward_op(input, target, weight, extras[kIgnoreIndex].toInt(), extras[kSmoothing].toDouble(), extras[kZLoss].toDouble(),
                 extras[kSoftcap].toDouble());
  const auto [result, total] = reduced_with_total(loss, share, reduction, extras[kDtype].toScalarType());
  if (saved) *saved = {input, target, weight, top, scale, share, total};
  return result;
}

const Differentiable kDifferentiable = {
    "pylayers::CrossEntropyBackward",
    [](at::TensorList inputs, Extras& extras, Tensors& saved) { return run_forward(inputs[0], inputs[1], inputs[2], extras, &saved); },
    [](const Tensor& grad, const Tensors& saved, const Extras& extras, const std::vector<bool>&) -> Tensors {
      const Tensor &input = saved[0], &share = saved[5];
      const auto reduction = static_cast<Reduction>(extras[kReduction].toInt());
      Tensor each = in_dtype(grad, accumulation_dtype(input.scalar_type()));
      if (reduction == Reduction::mean) each = each / saved[6];
      return {backward_op(each.expand_symint(share.sym_sizes()), input, saved[1], saved[2], saved[3], saved[4], share,
                          extras[kIgnoreIndex].toInt(), extras[kSmoothing].toDouble(), extras[kZLoss].toDouble(),
                          extras[kSoftcap].toDouble()),
              Tensor(), Tensor()};
    }};

Tensor run(const Tensor& input, const Tensor& target, const OptionalTensor& given, std::string_view name, int64_t ignore_index,
           double smoothing, double z_loss, std::optional<double> softcap, std::optional<at::ScalarType> dtype) {
  const Tensor& weight = value(given);
  check(input, target, weight, ignore_index, smoothing, softcap);
  const Reduction reduction = reduction_of(kOp, name);
  const double cap = softcap.value_or(0);
  const auto result = dtype.value_or(input.scalar_type());
  if (needs_formula(kOp, {&input, &target, &weight}) || needs_gradient({&target, &weight})) {
    const PlainLoss plain(kOp, input, target, given, {ignore_index, smoothing, z_loss, cap});
    return reduced(plain.loss(), plain.share, reduction, result);
  }
  Extras extras = {static_cast<int64_t>(reduction), ignore_index, smoothing, z_loss, cap, result};
  if (needs_gradient({&input})) return apply(kDifferentiable, {input, target, weight}, std::move(extras));
  const at::AutoDispatchBelowADInplaceOrView guard;
  return run_forward(input, target, weight, extras, nullptr);
}

// A loss in float32, as torch's is under autocast, of logits as they are: the kernels compute in float32 anyway.
Tensor autocast(const Tensor& input, const Tensor& target, const OptionalTensor& weight, std::string_view reduction, int64_t ignore_index,
                double smoothing, double z_loss, std::optional<double> softcap, std::optional<at::ScalarType> dtype) {
  const c10::impl::ExcludeDispatchKeyGuard guard(c10::autocast_dispatch_keyset);
  const auto own = input.scalar_type();
  const bool widens = own == at::kHalf || own == at::kBFloat16;
  return cross_entropy(input, of_probabilities(target) ? autocast_to(own, target, input) : target, autocast_to(own, weight, input),
                       reduction, ignore_index, smoothing, z_loss, softcap, widens && !dtype ? at::kFloat : dtype);
}

}  // namespace

Tensor cross_entropy(const Tensor& input, const Tensor& target, const OptionalTensor& weight, std::string_view reduction,
                     int64_t ignore_index, double label_smoothing, double z_loss, std::optional<double> softcap,
                     std::optional<at::ScalarType> dtype) {
  return op(input, target, weight, reduction, ignore_index, label_smoothing, z_loss, softcap, dtype);
}

TORCH_LIBRARY_FRAGMENT(pylayers, m) {
  op.define_public(m, "cross_entropy(Tensor input, Tensor target, Tensor? weight=None, str reduction='mean', int ignore_index=-100, "
                      "float label_smoothing=0.0, float z_loss=0.0, float? softcap=None, ScalarType? dtype=None) -> Tensor",
                   run, autocast);
  forward_op.define_kernel(m, "cross_entropy_forward(Tensor input, Tensor target, Tensor? weight, int ignore_index, "
                              "float label_smoothing, float z_loss, float softcap) -> (Tensor, Tensor, Tensor, Tensor)",
                           forward, allocate_forward);
  backward_op.define_backward(m, kOp, "cross_entropy_backward(Tensor grad, Tensor input, Tensor target, Tensor? weight, Tensor top, "
                                      "Tensor scale, Tensor share, int ignore_index, float label_smoothing, float z_loss, "
                                      "float softcap) -> Tensor", backward, allocate_backward, backward_formula);
}

}  // namespace pylayers
