#include "losses.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>

#include <limits>

namespace pylayers {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// Σ numbers, of the CPU's memory: a call of at::sum takes as long as a small loss.
double sum_of(const Tensor& numbers) {
  const auto add = [count = numbers.numel()](const auto* from) {
    double sums[4] = {};
    for (int64_t i = 0; i < count; ++i) sums[i % 4] += from[i];
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
  };
  return numbers.scalar_type() == at::kDouble ? add(numbers.const_data_ptr<double>()) : add(numbers.const_data_ptr<float>());
}

Tensor number(const Tensor& like, double value, at::ScalarType dtype) {
  const Tensor result = allocate(like, {}, dtype);
  switch (dtype) {
    case at::kDouble: *result.mutable_data_ptr<double>() = value; break;
    case at::kHalf: *result.mutable_data_ptr<at::Half>() = static_cast<float>(value); break;
    case at::kBFloat16: *result.mutable_data_ptr<at::BFloat16>() = static_cast<float>(value); break;
    default: *result.mutable_data_ptr<float>() = static_cast<float>(value);
  }
  return result;
}

Reduced with_total(const Tensor& loss, const Tensor& share, Reduction reduction, at::ScalarType dtype) {
  if (reduction == Reduction::none) return {in_dtype(loss, dtype), {}};
  const Tensor sum = loss.sum(), total = reduction == Reduction::mean ? share.sum() : Tensor();
  return {in_dtype(total.defined() ? sum / total : sum, dtype), total};
}

Tensor classes_last(const Tensor& logits) { return logits.dim() > 2 ? logits.movedim(1, -1) : logits; }

void check_target(const char* op, c10::SymIntArrayRef logits, const Tensor& like, const Tensor& target, int64_t ignore_index) {
  TORCH_CHECK(target.device() == like.device(), op, ": target must be on the device of input (", like.device(), "), got ",
              target.device());
  if (of_probabilities(target)) {
    check_matches(op, "a target of probabilities", target, "input", like);
    TORCH_CHECK_VALUE(target.sym_sizes().equals(logits), op, ": a target of probabilities must have the shape of the logits ", logits,
                      ", got ", target.sym_sizes());
    TORCH_CHECK_VALUE(ignore_index < 0, op, ": ignore_index must be negative for a target of probabilities, which names no class, got ",
                      ignore_index);
    return;
  }
  TORCH_CHECK_TYPE(target.scalar_type() == at::kLong, op, ": target must be int64, or probabilities in the dtype of input, got ",
                   toString(target.scalar_type()));
  const auto expected = rows_shape(logits);
  TORCH_CHECK_VALUE(target.sym_sizes().equals(expected), op, ": target must have shape ", c10::SymIntArrayRef(expected),
                    " (the logits without their classes), got ", target.sym_sizes());
}

}  // namespace

std::vector<c10::SymInt> rows_shape(c10::SymIntArrayRef logits) {
  auto sizes = logits.vec();
  sizes.erase(sizes.begin() + class_dim(sizes.size()));
  return sizes;
}

void check_loss(const char* op, c10::SymIntArrayRef logits, const Tensor& like, const Tensor& target, const Tensor& weight,
                int64_t ignore_index, double smoothing, std::optional<double> softcap) {
  check_target(op, logits, like, target, ignore_index);
  const auto classes = logits[class_dim(logits.size())];
  TORCH_CHECK_VALUE(classes > 0, op, ": there must be at least one class, got logits of shape ", logits);
  if (weight.defined()) {
    check_matches(op, "weight", weight, "input", like);
    TORCH_CHECK_VALUE(weight.dim() == 1 && weight.sym_size(0) == classes, op, ": weight must have shape (", classes,
                      ",) (the classes), got ", weight.sym_sizes());
  }
  TORCH_CHECK_VALUE(smoothing >= 0 && smoothing <= 1, op, ": label_smoothing must be between 0 and 1, got ", smoothing);
  TORCH_CHECK_VALUE(!softcap || *softcap > 0, op, ": softcap must be positive, or None for none, got ", softcap.value_or(0));
}

Reduction reduction_of(const char* op, std::string_view name, bool batches) {
  if (name == "none") return Reduction::none;
  if (name == "sum") return Reduction::sum;
  if (batches && name == "batchmean") return Reduction::batchmean;
  TORCH_CHECK_VALUE(name == "mean", op, ": reduction must be \"none\", ", batches ? "\"batchmean\", " : "",
                    "\"mean\" or \"sum\", got \"", name, "\"");
  return Reduction::mean;
}

void check_range(const char* op, const Tensor& target, const c10::SymInt& classes, int64_t ignore_index) {
  if (of_probabilities(target) || !has_cpu_memory(target) || splits_for_gpu(target)) return;
  const int64_t count = classes.guard_int(__FILE__, __LINE__);
  const Tensor own = target.contiguous();
  const auto* at = own.const_data_ptr<int64_t>();
  for (int64_t row = 0; row < own.numel(); ++row)
    TORCH_CHECK_INDEX(at[row] == ignore_index || (at[row] >= 0 && at[row] < count), op, ": target ", at[row],
                      " is none of the ", count, " classes and not ignore_index (", ignore_index, "); it is number ", row);
}

PlainLoss::PlainLoss(const char* op, const Tensor& logits, const Tensor& target, const OptionalTensor& weight, const LossOptions& options)
    : z(classes_last(logits).to(accumulation_dtype(logits.scalar_type()))), options(options), dtype_(logits.scalar_type()) {
  if (options.softcap != 0) z = (z / options.softcap).tanh() * options.softcap;
  const auto classes = z.sym_size(-1);
  if (of_probabilities(target)) {
    q = classes_last(target).to(z.scalar_type());
    share = at::ones_like(z.select(-1, 0));
  } else {
    check_range(op, target, classes, options.ignore_index);
    const Tensor ignored = target == options.ignore_index, known = (target >= 0).logical_and(target < classes);
    valid = known.logical_or(ignored);
    live = known.logical_and(ignored.logical_not());
    z = z.masked_fill(live.logical_not().unsqueeze(-1), 0);  // not read: a nan there is no matter
    const Tensor index = at::where(live, target, at::zeros_like(target)).unsqueeze(-1);
    q = at::zeros_like(z).scatter(-1, index, 1);
    if (options.smoothing == 0) unasked = q == 0;
    share = counted(value(weight).defined() ? weight->to(z.scalar_type()).expand_as(z).gather(-1, index).squeeze(-1)
                                            : at::ones_like(z.select(-1, 0)));
  }
  if (options.smoothing != 0) q = q * (1 - options.smoothing) + options.smoothing / classes;
  if (value(weight).defined()) q = q * weight->to(z.scalar_type());
}

Tensor PlainLoss::counted(const Tensor& numbers) const {
  return live.defined() ? numbers.masked_fill(live.logical_not(), 0).masked_fill(valid.logical_not(), kNan) : numbers;
}

Tensor PlainLoss::loss() const {
  const Tensor terms = -at::log_softmax(z, -1) * q;
  Tensor sum = (unasked.defined() ? terms.masked_fill(unasked, 0) : terms).sum(-1);  // there −inf is no matter
  if (options.z_loss != 0) sum = sum + options.z_loss * at::logsumexp(z, -1).square();
  return counted(sum);
}

Tensor PlainLoss::gradient(const Tensor& grad) const {
  Tensor slope = q.sum(-1, true);
  if (options.z_loss != 0) slope = slope + 2 * options.z_loss * at::logsumexp(z, -1, true);
  Tensor d = at::softmax(z, -1) * slope - q;
  if (options.softcap != 0) d = d * (1 - (z / options.softcap).square());
  d = grad.unsqueeze(-1) * d;
  if (live.defined()) d = d.masked_fill(live.logical_not().unsqueeze(-1), 0).masked_fill(valid.logical_not().unsqueeze(-1), kNan);
  return (d.dim() > 2 ? d.movedim(-1, 1) : d).to(dtype_);
}

Tensor reduced(const Tensor& loss, const Tensor& share, Reduction reduction, at::ScalarType dtype) {
  return with_total(loss, share, reduction, dtype).loss;
}

Reduced reduced_with_total(const Tensor& loss, const Tensor& share, Reduction reduction, at::ScalarType dtype) {
  if (reduction == Reduction::none || !has_cpu_memory(loss)) return with_total(loss, share, reduction, dtype);
  const bool mean = reduction == Reduction::mean;
  const double total = mean ? sum_of(share) : 1;
  return {number(loss, sum_of(loss) / total, dtype), mean ? number(loss, total, loss.scalar_type()) : Tensor()};
}

}  // namespace pylayers
