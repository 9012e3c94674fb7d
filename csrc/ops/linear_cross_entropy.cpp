// The cross entropy of linear(input, weight, bias): the matrix of logits exists a few rows at a time.
//
// Where gradients will be asked for and the loss is one number, they are computed as it is, from the same logits: three products, as
// without this op. They lack only a factor, which the backward brings. Losses of each row have as many factors: their backward computes
// the logits once more. The gradient of the weight is summed in acc.
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>

#include "autograd.h"
#include "linear_loss.h"
#include "losses.h"
#include "op.h"
#include "ops.h"

namespace pylayers {
namespace {

constexpr auto kOp = "linear_cross_entropy";

using Triple = std::tuple<Tensor, Tensor, Tensor>;
using Seven = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// The linear weight is [classes, ..., inner], the dimensions between being those of the target behind its rows.
std::vector<c10::SymInt> logits_shape(const Tensor& input, const Tensor& w) {
  std::vector<c10::SymInt> sizes;
  if (input.dim() == 2) sizes.push_back(input.sym_size(0));
  for (int64_t i = 0; i + 1 < w.dim(); ++i) sizes.push_back(w.sym_size(i));
  return sizes;
}

void check(const Tensor& input, const Tensor& w, const Tensor& target, const Tensor& bias, const Tensor& weight, int64_t ignore_index,
           double smoothing, std::optional<double> softcap, std::optional<int64_t> chunk_rows) {
  check_floating(kOp, "input", input);
  check_matches(kOp, "linear_weight", w, "input", input);
  TORCH_CHECK_VALUE(input.dim() == 1 || input.dim() == 2, kOp, ": input must have shape (in_features,) or (batch, in_features), got ",
                    input.sym_sizes());
  TORCH_CHECK_VALUE(w.dim() >= 2, kOp, ": linear_weight must have shape (classes, in_features) or (classes, ..., in_features), got ",
                    w.sym_sizes());
  TORCH_CHECK_VALUE(w.dim() == 2 || input.dim() == 2, kOp, ": a linear_weight of ", w.dim(),
                    " dimensions needs an input of shape (batch, in_features), got ", input.sym_sizes());
  TORCH_CHECK_VALUE(input.sym_size(-1) == w.sym_size(-1), kOp, ": the last dimension of input must be ", w.sym_size(-1),
                    " (in_features of linear_weight), got shape ", input.sym_sizes());
  if (bias.defined()) {
    check_matches(kOp, "linear_bias", bias, "input", input);
    const auto expected = w.sym_sizes().slice(0, w.dim() - 1);
    TORCH_CHECK_VALUE(bias.sym_sizes().equals(expected), kOp, ": linear_bias must have shape ", expected,
                      " (linear_weight without in_features), got ", bias.sym_sizes());
  }
  TORCH_CHECK_VALUE(!chunk_rows || *chunk_rows > 0, kOp, ": chunk_rows must be positive, or None for what the memory of a chunk allows, got ",
                    chunk_rows.value_or(0));
  check_loss(kOp, logits_shape(input, w), input, target, weight, ignore_index, smoothing, softcap);
}

// ---- what plain PyTorch computes

struct Plain {
  Tensor x, w;  // as matrices, in acc
  PlainLoss loss;

  Plain(const Tensor& input, const Tensor& given, const Tensor& target, const OptionalTensor& bias, const OptionalTensor& weight,
        const LossOptions& options)
      : x(in_acc(input.dim() == 1 ? input.unsqueeze(0) : input)), w(in_acc(given).reshape_symint({-1, given.sym_size(-1)})),
        loss(kOp, logits(input, given, value(bias)), of_probabilities(target) ? in_acc(target) : target,
             value(weight).defined() ? OptionalTensor(in_acc(*weight)) : weight, options) {}

  // Gradients by input, weight and bias for one by the loss of each row.
  Triple gradients(const Tensor& grad, const Tensor& input, const Tensor& given, const OptionalTensor& bias) const {
    const Tensor d = loss.gradient(grad).reshape_symint({x.sym_size(0), w.sym_size(0)});
    const auto as = [](const Tensor& gradient, const Tensor& of) {
      return gradient.reshape_symint(of.sym_sizes()).to(of.scalar_type());
    };
    return {as(d.matmul(w), input), as(d.t().matmul(x), given), value(bias).defined() ? as(d.sum(0), *bias) : nothing(input)};
  }

 private:
  Tensor logits(const Tensor& input, const Tensor& given, const Tensor& bias) const {
    const Tensor b = bias.defined() ? in_acc(bias).reshape_symint({-1}) : bias;
    return at::linear(x, w, b.defined() ? OptionalTensor(b) : OptionalTensor()).reshape_symint(logits_shape(input, given));
  }
};

// What each row's gradient is multiplied by; 0 for a mean over nothing, whose rows count for nothing. total: Σ share, of a mean.
Tensor factor_of(const Tensor& grad, const Tensor& total) {
  return total.defined() ? at::where(total == 0, at::zeros_like(grad), grad / total) : grad;
}

// ---- chunks

// The tensors of a call as matrices. What belongs to the rows is [positions, rows].
struct Arguments {
  Tensor x, w, bias, classes, soft, weight;
  int64_t rows, inner, count, positions;  // count: of classes

  Arguments(const Tensor& input, const Tensor& given, const Tensor& target, const OptionalTensor& linear_bias, const OptionalTensor& loss_weight)
      : x(input.dim() == 1 ? input.unsqueeze(0) : input), rows(x.size(0)), inner(x.size(1)), count(given.size(0)),
        positions(positions_of(given).expect_int()) {
    w = given.reshape({count, positions, inner});
    if (value(linear_bias).defined()) bias = in_acc(linear_bias->reshape({count, positions}).t()).contiguous();
    if (value(loss_weight).defined()) weight = in_acc(*loss_weight).contiguous();
    if (of_probabilities(target)) soft = target.reshape({rows, count, positions});
    else classes = target.reshape({rows, positions}).t().contiguous();
  }
  bool empty() const { return rows == 0 || positions == 0; }
};

// Of one position: a linear map with classes of its own.
struct Position {
  const Arguments& of;
  const LossOptions& options;
  const Target target;
  int64_t index;
  Tensor w, bias;

  Position(const Arguments& of, const LossOptions& options, const Target& target, int64_t index)
      : of(of), options(options), target(target), index(index), w(of.w.select(1, index)),
        bias(of.bias.defined() ? of.bias.select(0, index) : Tensor()) {}

  Tensor row(const Tensor& numbers, Range range) const { return numbers.select(0, index).narrow(0, range.first, range.count()); }
  Tensor probabilities(Range range) const {
    return of.soft.defined() ? in_acc(rows_of(of.soft, range).select(2, index)).contiguous() : Tensor();
  }
  Tensor classes(Range range) const { return of.classes.defined() ? row(of.classes, range) : Tensor(); }

  void loss(const Tensor& logits, Range range, const Tensor& soft, const Tensor& loss, const Tensor& top, const Tensor& scale,
            const Tensor& share) const {
    const auto to = [&](const Tensor& numbers) { return Argument::output(numbers, {range.count()}); };
    const Tensor labels = classes(range), l = row(loss, range), t = row(top, range), s = row(scale, range), counts = row(share, range);
    kernels::cross_entropy_forward(target, to(l), to(t), to(s), to(counts), input(logits), vector(labels), input(soft), vector(of.weight),
                                   options.ignore_index, options.smoothing, options.z_loss, options.softcap);
  }
  // In the memory of the logits.
  void gradient(const Tensor& logits, Range range, const Tensor& soft, const Tensor& grad, const Tensor& top, const Tensor& scale,
                const Tensor& share) const {
    const Tensor labels = classes(range), t = row(top, range), s = row(scale, range), counts = row(share, range);
    const bool spread = soft.defined() || options.smoothing != 0;
    kernels::cross_entropy_backward(target, output(logits), Argument::input(grad, {range.count()}, {grad.stride(0)}), input(logits),
                                    vector(labels), input(soft), spread ? vector(of.weight) : Argument(), vector(t), vector(s),
                                    vector(counts), options.ignore_index, options.smoothing, options.softcap);
  }
};

// body(position, rows, logits, probabilities) for all chunks, which turns the logits into their gradients where `sums` has any.
template <class Body>
void for_chunks(const Arguments& own, const LossOptions& options, const Target& target, int64_t chunk_rows, const LinearSums& sums, const Body& body) {
  if (own.empty()) return sums.clear();
  const int64_t size = rows_at_once(own.x, own.rows, own.count, own.inner, sums.dw.defined(), chunk_rows);
  Chunk chunk(own.x, size, own.count, own.inner);
  Scratch memory(accumulation_dtype(own.x.scalar_type()));
  for (int64_t i = 0; i < pieces(own.rows, size); ++i) {
    const Range range = piece(own.rows, size, i);
    chunk.take(rows_of(own.x, range));
    const Tensor dx = sums.rows(range, memory);
    for (int64_t p = 0; p < own.positions; ++p) {
      const Position at(own, options, target, p);
      const Tensor soft = at.probabilities(range), logits = chunk.logits(at.w, at.bias);
      body(at, range, logits, soft);
      if (sums.any()) sums.add(chunk, logits, at.w, p, dx, i == 0);
    }
    sums.take(range, dx);
  }
}

Seven allocate_forward(const Tensor& input, const Tensor& w, const Tensor&, const OptionalTensor&, const OptionalTensor&, int64_t, double,
                       double, double, int64_t, LinearMask mask) {
  const auto one = [&] { return allocate(input, {positions_of(w), rows_of_input(input)}, accumulation_dtype(input.scalar_type())); };
  const LinearSums sums(input, w, mask);
  return {one(), one(), one(), one(), or_nothing(sums.dx, input), or_nothing(sums.dw, input), or_nothing(sums.db, input)};
}

Seven forward(const Tensor& input, const Tensor& w, const Tensor& target, const OptionalTensor& bias, const OptionalTensor& weight,
              int64_t ignore_index, double smoothing, double z_loss, double softcap, int64_t chunk_rows, LinearMask mask) {
  check_range(kOp, target, w.size(0), ignore_index);
  const LossOptions options{ignore_index, smoothing, z_loss, softcap};
  const Arguments own(input, w, target, bias, weight);
  const LinearSums sums(input, w, mask);
  auto [loss, top, scale, share, dx, dw, db] = allocate_forward(input, w, target, bias, weight, ignore_index, smoothing, z_loss, softcap, chunk_rows, {});
  const Tensor one = sums.any() ? at::ones({1}, loss.options()) : Tensor();
  for_chunks(own, options, registry::target(kOp, input), chunk_rows, sums, [&](const Position& at, Range range, const Tensor& logits, const Tensor& soft) {
    at.loss(logits, range, soft, loss, top, scale, share);
    if (sums.any()) at.gradient(logits, range, soft, one.expand({range.count()}), top, scale, share);
  });
  return {loss, top, scale, share, or_nothing(sums.dx, input), or_nothing(sums.dw, input), or_nothing(sums.db, input)};
}

// ---- backward

Triple allocate_backward(const Tensor&, const Tensor& input, const Tensor& w, const Tensor&, const OptionalTensor&, const OptionalTensor&,
                         const Tensor&, const Tensor&, const Tensor&, const OptionalTensor&, const OptionalTensor&, const OptionalTensor&,
                         const OptionalTensor&, int64_t, double, double, double, int64_t, LinearMask mask) {
  return {mask[0] ? allocate_like(input) : nothing(input), mask[1] ? allocate_like(w) : nothing(input),
          mask[2] ? allocate(w, w.sym_sizes().slice(0, w.dim() - 1), w.scalar_type()) : nothing(input)};
}

// grad has the dtype acc: one number, or with the gradients not given one for each row, [positions, rows].
Triple backward(const Tensor& grad, const Tensor& input, const Tensor& w, const Tensor& target, const OptionalTensor& bias,
                const OptionalTensor& weight, const Tensor& top, const Tensor& scale, const Tensor& share, const OptionalTensor& dinput,
                const OptionalTensor& dw, const OptionalTensor& db, const OptionalTensor& total, int64_t ignore_index, double smoothing,
                double z_loss, double softcap, int64_t chunk_rows, LinearMask mask) {
  auto outputs = allocate_backward(grad, input, w, target, bias, weight, top, scale, share, dinput, dw, db, total, ignore_index, smoothing,
                                   z_loss, softcap, chunk_rows, mask);
  auto& [dx_out, dw_out, db_out] = outputs;
  if (grad.dim() == 0) {
    const Tensor factor = factor_of(grad, value(total));
    if (mask[0]) scale_to(dx_out, value(dinput), factor);
    if (mask[1]) scale_to(dw_out, value(dw), factor);
    if (mask[2]) scale_to(db_out, value(db).t(), factor);
    return outputs;
  }
  const LossOptions options{ignore_index, smoothing, z_loss, softcap};
  const Arguments own(input, w, target, bias, weight);
  const LinearSums sums(input, w, mask);
  for_chunks(own, options, registry::target(kOp, input), chunk_rows, sums, [&](const Position& at, Range range, const Tensor& logits, const Tensor& soft) {
    at.gradient(logits, range, soft, at.row(grad, range), top, scale, share);
  });
  if (mask[0]) dx_out.copy_(sums.dx.view(dx_out.sizes()));
  if (mask[1]) dw_out.copy_(sums.dw.view(dw_out.sizes()));
  if (mask[2]) db_out.copy_(sums.db.t().reshape(db_out.sizes()));
  return outputs;
}

// [positions, rows] as the target is.
Tensor as_target(const Tensor& numbers, const Tensor& input, const Tensor& w) {
  std::vector<c10::SymInt> sizes = w.sym_sizes().slice(1, w.dim() - 2).vec();
  if (input.dim() == 2) sizes.push_back(input.sym_size(0));
  const Tensor shaped = numbers.reshape_symint(sizes);
  return shaped.dim() > 1 ? shaped.movedim(-1, 0).contiguous() : shaped;
}
Tensor by_position(const Tensor& grad, const Tensor& share) {
  return (grad.dim() > 1 ? grad.movedim(0, -1) : grad).reshape_symint(share.sym_sizes()).contiguous();
}

Triple backward_formula(const Tensor& grad, const Tensor& input, const Tensor& w, const Tensor& target, const OptionalTensor& bias,
                        const OptionalTensor& weight, const Tensor&, const Tensor&, const Tensor&, const OptionalTensor&,
                        const OptionalTensor&, const OptionalTensor&, const OptionalTensor& total, int64_t ignore_index, double smoothing,
                        double z_loss, double softcap, int64_t, LinearMask mask) {
  const Plain plain(input, w, target, bias, weight, {ignore_index, smoothing, z_loss, softcap});
  const Tensor each = grad.dim() == 0 ? factor_of(grad, value(total)).expand_symint(plain.loss.share.sym_sizes()) : as_target(grad, input, w);
  auto [dx, dw, db] = plain.gradients(each, input, w, bias);
  return {mask[0] ? dx : nothing(input), mask[1] ? dw : nothing(input), mask[2] ? db : nothing(input)};
}

Op<decltype(linear_cross_entropy)> op;
Op<decltype(forward)> forward_op;
Op<decltype(backward)> backward_op;

enum Place { kReduction, kIgnoreIndex, kSmoothing, kZLoss, kSoftcap, kDtype, kChunkRows };

Tensor run_forward(at::TensorList inputs, const Extras& extras, const LinearMask& mask, Tensors* saved) {
  const auto& [input, w, target, bias, weight] = std::tie(inputs[0], inputs[1], inputs[2], inputs[3], inputs[4]);
  const auto reduction = static_cast<Reduction>(extras[kReduction].toInt());
  auto [loss, top, scale, share, dx, dw, db] =
      forward_op(input, w, target, bias, weight, extras[kIgnoreIndex].toInt(), extras[kSmoothing].toDouble(), extras[kZLoss].toDouble(),
                 extras[kSoftcap].toDouble(), extras[kChunkRows].toInt(), reduction == Reduction::none ? LinearMask{} : mask);
  const Tensor each = reduction == Reduction::none ? as_target(loss, input, w) : loss;
  const auto [result, total] = reduced_with_total(each, share, reduction, extras[kDtype].toScalarType());
  if (saved) *saved = {input, w, target, bias, weight, top, scale, share, dx, dw, db, total};
  return result;
}

const Differentiable kDifferentiable = {
    "pylayers::LinearCrossEntropyBackward",
    [](at::TensorList inputs, Extras& extras, Tensors& saved) {
      const auto asks = [](const Tensor& one) { return one.defined() && one.requires_grad(); };
      return run_forward(inputs, extras, {asks(inputs[0]), asks(inputs[1]), asks(inputs[3])}, &saved);
    },
    [](const Tensor& grad, const Tensors& saved, const Extras& extras, const std::vector<bool>& mask) -> Tensors {
      const Tensor &input = saved[0], &share = saved[7];
      const auto reduction = static_cast<Reduction>(extras[kReduction].toInt());
      const Tensor g = in_dtype(grad, share.scalar_type());
      auto [dx, dw, db] = backward_op(reduction == Reduction::none ? by_position(g, share) : g, input, saved[1], saved[2], saved[3], saved[4],
                                      saved[5], saved[6], share, saved[8], saved[9], saved[10], saved[11], extras[kIgnoreIndex].toInt(),
                                      extras[kSmoothing].toDouble(), extras[kZLoss].toDouble(), extras[kSoftcap].toDouble(),
                                      extras[kChunkRows].toInt(), {mask[0], mask[1], mask[3]});
      return {dx, dw, Tensor(), db, Tensor()};
    }};

Tensor run(const Tensor& input, const Tensor& w, const Tensor& target, const OptionalTensor& linear_bias, const OptionalTensor& given,
           std::string_view name, int64_t ignore_index, double smoothing, double z_loss, std::optional<double> softcap,
           std::optional<int64_t> chunk_rows, std::optional<at::ScalarType> dtype) {
  const Tensor &bias = value(linear_bias), &weight = value(given);
  check(input, w, target, bias, weight, ignore_index, smoothing, softcap, chunk_rows);
  const Reduction reduction = reduction_of(kOp, name);
  const double cap = softcap.value_or(0);
  const auto result = dtype.value_or(input.scalar_type());
  if (needs_formula(kOp, {&input, &w, &target, &bias, &weight}) || needs_gradient({&target, &weight})) {
    const PlainLoss plain = Plain(input, w, target, linear_bias, given, {ignore_index, smoothing, z_loss, cap}).loss;
    return reduced(plain.loss(), plain.share, reduction, result);
  }
  Extras extras = {static_cast<int64_t>(reduction), ignore_index, smoothing, z_loss, cap, result, chunk_rows.value_or(0)};
  if (needs_gradient({&input, &w, &bias})) return apply(kDifferentiable, {input, w, target, bias, weight}, std::move(extras));
  const at::AutoDispatchBelowADInplaceOrView guard;
  return run_forward({{input, w, target, bias, weight}}, extras, {}, nullptr);
}

// The products run in the lower precision, the loss is float32, as torch has both under autocast.
Tensor autocast(const Tensor& input, const Tensor& w, const Tensor& target, const OptionalTensor& bias, const OptionalTensor& weight,
                std::string_view reduction, int64_t ignore_index, double smoothing, double z_loss, std::optional<double> softcap,
                std::optional<int64_t> chunk_rows, std::optional<at::ScalarType> dtype) {
  const c10::impl::ExcludeDispatchKeyGuard guard(c10::autocast_dispatch_keyset);
  const auto own = autocast_dtype(input);
  const auto cast = [&](const auto& tensor) { return autocast_to(own, tensor, input); };
  return linear_cross_entropy(cast(input), cast(w), of_probabilities(target) ? cast(target) : target, cast(bias), cast(weight), reduction,
                              ignore_index, smoothing, z_loss, softcap, chunk_rows, dtype.value_or(at::kFloat));
}

}  // namespace

Tensor linear_cross_entropy(const Tensor& input, const Tensor& linear_weight, const Tensor& target, const OptionalTensor& linear_bias,
                            const OptionalTensor& weight, std::string_view reduction, int64_t ignore_index, double label_smoothing,
                            double z_loss, std::optional<double> softcap, std::optional<int64_t> chunk_rows,
                            std::optional<at::ScalarType> dtype) {
  return op(input, linear_weight, target, linear_bias, weight, reduction, ignore_index, label_smoothing, z_loss, softcap, chunk_rows, dtype);
}

TORCH_LIBRARY_FRAGMENT(pylayers, m) {
  op.define_public(m, "linear_cross_entropy(Tensor input, Tensor linear_weight, Tensor target, Tensor? linear_bias=None, "
                      "Tensor? weight=None, str reduction='mean', int ignore_index=-100, float label_smoothing=0.0, float z_loss=0.0, "
                      "float? softcap=None, int? chunk_rows=None, ScalarType? dtype=None) -> Tensor",
                   run, autocast);
  forward_op.define_kernel(m, "linear_cross_entropy_forward(Tensor input, Tensor linear_weight, Tensor target, Tensor? linear_bias, "
                              "Tensor? weight, int ignore_index, float label_smoothing, float z_loss, float softcap, int chunk_rows, "
                              "bool[3] mask) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
                           forward, allocate_forward);
  backward_op.define_backward(m, kOp, "linear_cross_entropy_backward(Tensor grad, Tensor input, Tensor linear_weight, Tensor target, "
                                      "Tensor? linear_bias, Tensor? weight, Tensor top, Tensor scale, Tensor share, Tensor? dinput, "
                                      "Tensor? dweight, Tensor? dbias, Tensor? total, int ignore_index, float label_smoothing, float z_loss, "
                                      "float softcap, int chunk_rows, bool[3] mask) -> (Tensor, Tensor, Tensor)",
                              backward, allocate_backward, backward_formula);
}

}  // namespace pylayers
