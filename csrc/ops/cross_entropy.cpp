// The cross entropy of logits with classes or with class probabilities, its reduction, and its gradient by the logits.
//
// The logits are read once for the loss and once more, with one write, for the gradient. What the two passes share is a few numbers
// for each row; nothing is read back from a GPU, so how many targets count is a tensor.
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/ones_like.h>
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

constexpr auto kOp = "cross_entropy";
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

using Four = std::tuple<Tensor, Tensor, Tensor, Tensor>;

bool of_probabilities(const Tensor& target) { return target.is_floating_point(); }

int64_t class_dim(const Tensor& input) { return input.dim() == 1 ? 0 : 1; }

Tensor classes_last(const Tensor& input) { return input.dim() > 2 ? input.movedim(1, -1) : input; }

// The sizes of input but for its classes, which are those of a target.
std::vector<c10::SymInt> rows_shape(const Tensor& input) {
  auto sizes = input.sym_sizes().vec();
  sizes.erase(sizes.begin() + class_dim(input));
  return sizes;
}

void check_target(const Tensor& input, const Tensor& target, int64_t ignore_index) {
  TORCH_CHECK(target.device() == input.device(), kOp, ": target must be on the device of input (", input.device(), "), got ",
              target.device());
  if (of_probabilities(target)) {
    check_matches(kOp, "a target of probabilities", target, "input", input);
    TORCH_CHECK_VALUE(target.sym_sizes().equals(input.sym_sizes()), kOp, ": a target of probabilities must have the shape of input ",
                      input.sym_sizes(), ", got ", target.sym_sizes());
    TORCH_CHECK_VALUE(ignore_index < 0, kOp, ": ignore_index must be negative for a target of probabilities, which names no class, got ",
                      ignore_index);
    return;
  }
  TORCH_CHECK_TYPE(target.scalar_type() == at::kLong, kOp, ": target must be int64, or probabilities in the dtype of input, got ",
                   toString(target.scalar_type()));
  const auto expected = rows_shape(input);
  TORCH_CHECK_VALUE(target.sym_sizes().equals(expected), kOp, ": target must have shape ", c10::SymIntArrayRef(expected),
                    " (input without its classes), got ", target.sym_sizes());
}

void check(const Tensor& input, const Tensor& target, const Tensor& weight, int64_t ignore_index, double smoothing,
           std::optional<double> softcap) {
  check_floating(kOp, "input", input);
  TORCH_CHECK_VALUE(input.dim() > 0, kOp, ": input must have shape (classes), (batch, classes) or (batch, classes, ...), got ()");
  check_target(input, target, ignore_index);
  const auto classes = input.sym_size(class_dim(input));
  TORCH_CHECK_VALUE(classes > 0, kOp, ": input must have at least one class, got ", input.sym_sizes());
  if (weight.defined()) {
    check_matches(kOp, "weight", weight, "input", input);
    TORCH_CHECK_VALUE(weight.dim() == 1 && weight.sym_size(0) == classes, kOp, ": weight must have shape (", classes,
                      ",) (the classes), got ", weight.sym_sizes());
  }
  TORCH_CHECK_VALUE(smoothing >= 0 && smoothing <= 1, kOp, ": label_smoothing must be between 0 and 1, got ", smoothing);
  TORCH_CHECK_VALUE(!softcap || *softcap > 0, kOp, ": softcap must be positive, or None for none, got ", softcap.value_or(0));
}

enum class Reduction : int64_t { none, mean, sum };

Reduction reduction_of(std::string_view name) {
  if (name == "none") return Reduction::none;
  if (name == "sum") return Reduction::sum;
  TORCH_CHECK_VALUE(name == "mean", kOp, ": reduction must be \"none\", \"mean\" or \"sum\", got \"", name, "\"");
  return Reduction::mean;
}

// On a CPU a target that is no class is an IndexError. A GPU would have to be waited for: there its row is nan.
void check_range(const Tensor& target, int64_t classes, int64_t ignore_index) {
  if (of_probabilities(target) || !has_cpu_memory(target) || splits_for_gpu(target)) return;
  const Tensor own = target.contiguous();
  const auto* at = own.const_data_ptr<int64_t>();
  for (int64_t row = 0; row < own.numel(); ++row)
    TORCH_CHECK_INDEX(at[row] == ignore_index || (at[row] >= 0 && at[row] < classes), kOp, ": target ", at[row],
                      " is none of the ", classes, " classes and not ignore_index (", ignore_index, "); it is number ", row);
}

// ---- what plain PyTorch computes

// A call in terms of logits z with the classes last: loss = Σ_c q_c · (lse − z_c) + z_loss · lse², q the weighted target probabilities.
struct Call {
  Tensor z, q, share, unasked;  // unasked: classes that a row's loss is not about
  Tensor live, valid;  // of each row, where targets are classes: whether it counts; whether its target is none or a class
  double softcap;

  Call(const Tensor& input, const Tensor& target, const OptionalTensor& weight, int64_t ignore_index, double smoothing, double softcap)
      : z(classes_last(input).to(accumulation_dtype(input.scalar_type()))), softcap(softcap) {
    if (softcap != 0) z = (z / softcap).tanh() * softcap;
    const auto classes = z.sym_size(-1);
    if (of_probabilities(target)) {
      q = classes_last(target).to(z.scalar_type());
      share = at::ones_like(z.select(-1, 0));
    } else {
      if (has_cpu_memory(target)) check_range(target, z.size(-1), ignore_index);
      const Tensor ignored = target == ignore_index, known = (target >= 0).logical_and(target < classes);
      valid = known.logical_or(ignored);
      live = known.logical_and(ignored.logical_not());
      z = z.masked_fill(live.logical_not().unsqueeze(-1), 0);  // not read: a nan there is no matter
      const Tensor index = at::where(live, target, at::zeros_like(target)).unsqueeze(-1);
      q = at::zeros_like(z).scatter(-1, index, 1);
      if (smoothing == 0) unasked = q == 0;
      share = counted(value(weight).defined() ? weight->to(z.scalar_type()).expand_as(z).gather(-1, index).squeeze(-1)
                                              : at::ones_like(z.select(-1, 0)));
    }
    if (smoothing != 0) q = q * (1 - smoothing) + smoothing / classes;
    if (value(weight).defined()) q = q * weight->to(z.scalar_type());
  }

  // Of numbers for each row: 0 for rows that do not count, nan for wrong ones.
  Tensor counted(const Tensor& numbers) const {
    return live.defined() ? numbers.masked_fill(live.logical_not(), 0).masked_fill(valid.logical_not(), kNan) : numbers;
  }

  Tensor loss(double z_loss) const {
    const Tensor terms = -at::log_softmax(z, -1) * q;
    Tensor sum = (unasked.defined() ? terms.masked_fill(unasked, 0) : terms).sum(-1);  // there −inf is no matter
    if (z_loss != 0) sum = sum + z_loss * at::logsumexp(z, -1).square();
    return counted(sum);
  }

  Tensor gradient(const Tensor& grad, double z_loss) const {
    Tensor slope = q.sum(-1, true);
    if (z_loss != 0) slope = slope + 2 * z_loss * at::logsumexp(z, -1, true);
    Tensor d = at::softmax(z, -1) * slope - q;
    if (softcap != 0) d = d * (1 - (z / softcap).square());
    d = grad.unsqueeze(-1) * d;
    if (live.defined()) d = d.masked_fill(live.logical_not().unsqueeze(-1), 0).masked_fill(valid.logical_not().unsqueeze(-1), kNan);
    return d;
  }
};

Tensor classes_back(const Tensor& tensor) { return tensor.dim() > 2 ? tensor.movedim(-1, 1) : tensor; }

// Of losses and shares for each row.
Tensor reduced(const Tensor& loss, const Tensor& share, Reduction reduction, at::ScalarType dtype) {
  if (reduction == Reduction::none) return in_dtype(loss, dtype);
  const Tensor sum = loss.sum();
  return in_dtype(reduction == Reduction::sum ? sum : sum / share.sum(), dtype);
}

// ---- kernels

struct Options {
  int64_t ignore_index;
  double smoothing, z_loss, softcap;
};

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
  const auto sizes = rows_shape(input);
  const auto one = [&] { return allocate(input, sizes, accumulation_dtype(input.scalar_type())); };
  return {one(), one(), one(), one()};
}

Four forward(const Tensor& input, const Tensor& target, const OptionalTensor& weight, int64_t ignore_index, double smoothing,
             double z_loss, double softcap) {
  Four outputs = allocate_forward(input, target, weight, ignore_index, smoothing, z_loss, softcap);
  const Arguments own(input, target, weight);
  if (own.x.empty()) return outputs;
  check_range(target, own.x.dim, ignore_index);
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
  const Call call(input, target, weight, ignore_index, smoothing, softcap);
  return classes_back(call.gradient(grad, z_loss).to(input.scalar_type()));
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
  if (saved) *saved = {input, target, weight, top, scale, share};
  return reduced(loss, share, reduction, extras[kDtype].toScalarType());
}

const Differentiable kDifferentiable = {
    "pylayers::CrossEntropyBackward",
    [](at::TensorList inputs, Extras& extras, Tensors& saved) { return run_forward(inputs[0], inputs[1], inputs[2], extras, &saved); },
    [](const Tensor& grad, const Tensors& saved, const Extras& extras, const std::vector<bool>&) -> Tensors {
      const Tensor &input = saved[0], &share = saved[5];
      const auto reduction = static_cast<Reduction>(extras[kReduction].toInt());
      Tensor each = in_dtype(grad, accumulation_dtype(input.scalar_type()));
      if (reduction == Reduction::mean) each = each / share.sum();
      return {backward_op(each.expand_symint(share.sym_sizes()), input, saved[1], saved[2], saved[3], saved[4], share,
                          extras[kIgnoreIndex].toInt(), extras[kSmoothing].toDouble(), extras[kZLoss].toDouble(),
                          extras[kSoftcap].toDouble()),
              Tensor(), Tensor()};
    }};

Tensor run(const Tensor& input, const Tensor& target, const OptionalTensor& given, std::string_view name, int64_t ignore_index,
           double smoothing, double z_loss, std::optional<double> softcap, std::optional<at::ScalarType> dtype) {
  const Tensor& weight = value(given);
  check(input, target, weight, ignore_index, smoothing, softcap);
  const Reduction reduction = reduction_of(name);
  const double cap = softcap.value_or(0);
  const auto result = dtype.value_or(input.scalar_type());
  if (needs_formula(kOp, {&input, &target, &weight}) || needs_gradient({&target, &weight})) {
    const Call call(input, target, given, ignore_index, smoothing, cap);
    return reduced(call.loss(z_loss), call.share, reduction, result);
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
