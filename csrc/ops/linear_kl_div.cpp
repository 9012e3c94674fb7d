// The Kullback-Leibler divergence between two linear maps' softmax, as students are taught by a teacher: neither matrix of logits exists
// but a few rows at a time.
//
// With p of the teacher and q of the student, the loss is Σ p (ln p − ln q), of differences of logarithms: two cross entropies, whose
// difference it is as well, are rounded as the large numbers that they are. As in linear_cross_entropy the gradients, of logits that
// are ln q already, are computed as the loss is, and lack a factor.
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/sum.h>

#include "../pointwise_loss.h"
#include "autograd.h"
#include "linear_loss.h"
#include "losses.h"
#include "op.h"
#include "ops.h"

namespace pylayers {
namespace {

constexpr auto kOp = "linear_kl_div";

using Triple = std::tuple<Tensor, Tensor, Tensor>;
using Four = std::tuple<Tensor, Tensor, Tensor, Tensor>;

// What the sum over the rows is divided by.
at::Scalar size_of(Reduction over, const Tensor& input, const Tensor& w) {
  if (over == Reduction::sum) return 1;
  return over == Reduction::mean ? input.sym_size(0) * w.sym_size(0) : input.sym_size(0);
}

void check_map(const char* input_name, const Tensor& input, const char* weight_name, const Tensor& w, const char* bias_name, const Tensor& bias) {
  TORCH_CHECK_VALUE(input.dim() == 2, kOp, ": ", input_name, " must have shape (batch, in_features), got ", input.sym_sizes());
  TORCH_CHECK_VALUE(w.dim() == 2 && w.sym_size(1) == input.sym_size(1), kOp, ": ", weight_name, " must have shape (classes, ", input.sym_size(1),
                    ") (in_features of ", input_name, "), got ", w.sym_sizes());
  TORCH_CHECK_VALUE(!bias.defined() || (bias.dim() == 1 && bias.sym_size(0) == w.sym_size(0)), kOp, ": ", bias_name, " must have shape (",
                    w.sym_size(0), ",) (classes), got ", bias.defined() ? bias.sym_sizes() : c10::SymIntArrayRef());
}

void check(const Tensor& input, const Tensor& w, const Tensor& teacher, const Tensor& tw, const Tensor& bias, const Tensor& tbias,
           double temperature, std::optional<int64_t> chunk_rows) {
  check_floating(kOp, "student_hidden", input);
  const auto matches = [&](const char* name, const Tensor& one) { if (one.defined()) check_matches(kOp, name, one, "student_hidden", input); };
  matches("student_weight", w), matches("teacher_hidden", teacher), matches("teacher_weight", tw);
  matches("student_bias", bias), matches("teacher_bias", tbias);
  check_map("student_hidden", input, "student_weight", w, "student_bias", bias);
  check_map("teacher_hidden", teacher, "teacher_weight", tw, "teacher_bias", tbias);
  TORCH_CHECK_VALUE(teacher.sym_size(0) == input.sym_size(0), kOp, ": teacher_hidden must have as many rows as student_hidden (",
                    input.sym_size(0), "), got ", teacher.sym_size(0));
  TORCH_CHECK_VALUE(tw.sym_size(0) == w.sym_size(0), kOp, ": teacher_weight must have as many classes as student_weight (", w.sym_size(0),
                    "), got ", tw.sym_size(0));
  TORCH_CHECK_VALUE(w.sym_size(0) > 0, kOp, ": there must be at least one class");
  TORCH_CHECK_VALUE(temperature > 0, kOp, ": temperature must be positive, got ", temperature);
  TORCH_CHECK_VALUE(!chunk_rows || *chunk_rows > 0, kOp, ": chunk_rows must be positive, or None for what the memory of a chunk allows, got ",
                    chunk_rows.value_or(0));
}

// ---- what plain PyTorch computes

Tensor logits(const Tensor& x, const Tensor& w, const OptionalTensor& bias, double temperature) {
  const Tensor b = in_acc(value(bias));
  return at::linear(in_acc(x), in_acc(w), b.defined() ? OptionalTensor(b) : OptionalTensor()) / temperature;
}

Tensor formula(const Tensor& input, const Tensor& w, const Tensor& teacher, const Tensor& tw, const OptionalTensor& bias,
               const OptionalTensor& tbias, double temperature) {
  const Tensor from = at::log_softmax(logits(teacher, tw, tbias, temperature), -1), to = at::log_softmax(logits(input, w, bias, temperature), -1);
  return (from.exp() * (from - to)).sum(-1) * (temperature * temperature);
}

// ---- chunks

struct Arguments {
  const Tensor &x, &w, &teacher, &tw;
  Tensor bias, tbias;
  double temperature;
  int64_t rows, classes;
};

Arguments arguments_of(const Tensor& input, const Tensor& w, const Tensor& teacher, const Tensor& tw, const OptionalTensor& bias,
                       const OptionalTensor& tbias, double temperature) {
  return {input, w, teacher, tw, in_acc(contiguous(bias)), in_acc(contiguous(tbias)), temperature, input.size(0), w.size(0)};
}

// Losses go to loss [rows], if it is defined; gradients, of grad · loss with grad [rows] or [1], to sums.
void run_chunks(const Arguments& own, const Target& target, int64_t chunk_rows, const Tensor& loss, const Tensor& grad, const LinearSums& sums) {
  if (own.rows == 0) return sums.clear();
  const auto acc = accumulation_dtype(own.x.scalar_type());
  const int64_t size = rows_at_once(own.x, own.rows, own.classes, own.x.size(1), sums.dw.defined(), chunk_rows, /*matrices=*/3);
  Chunk student(own.x, size, own.classes, own.x.size(1)), teacher(own.teacher, size, own.classes, own.teacher.size(1));
  Scratch logarithms(acc), memory(acc), numbers(acc);
  for (int64_t i = 0; i < pieces(own.rows, size); ++i) {
    const Range range = piece(own.rows, size, i);
    const int64_t count = range.count();
    student.take(rows_of(own.x, range));
    teacher.take(rows_of(own.teacher, range));
    const Tensor from = teacher.logits(own.tw, own.tbias), to = student.logits(own.w, own.bias);
    if (own.temperature != 1) from.div_(own.temperature), to.div_(own.temperature);
    const Tensor p = logarithms.block(own.x, {count, own.classes}), &q = from;  // ln p, ln q
    kernels::softmax_forward(target, output(p), input(from), 1);
    kernels::softmax_forward(target, output(q), input(to), 1);
    if (loss.defined()) {
      kernels::pointwise_loss_forward(target, output(to), Argument(), input(q), input(p), Argument(), Argument(),
                                      static_cast<int64_t>(PointwiseLoss::log_probabilities), 1);
      Tensor of_rows = loss.narrow(0, range.first, count);
      at::sum_out(of_rows, to, {-1}).mul_(own.temperature * own.temperature);
    }
    if (!sums.any()) continue;
    const Tensor few = numbers.block(own.x, {3, count}), factor = few.select(0, 0), top = few.select(0, 1).zero_(), scale = few.select(0, 2).fill_(1);
    factor.copy_((grad.numel() == 1 ? grad : grad.narrow(0, range.first, count)) * own.temperature);
    kernels::cross_entropy_backward(target, output(to), vector(factor), input(q), Argument(), input(p.exp_()), Argument(), vector(top),
                                    vector(scale), vector(scale), -100, 0, 0);
    const Tensor dx = sums.rows(range, memory);
    sums.add(student, to, own.w, 0, dx, i == 0);
    sums.take(range, dx);
  }
}

Four allocate_forward(const Tensor& input, const Tensor& w, const Tensor&, const Tensor&, const OptionalTensor&, const OptionalTensor&, double,
                      int64_t, LinearMask mask) {
  const LinearSums sums(input, w, mask);
  return {allocate(input, {input.sym_size(0)}, accumulation_dtype(input.scalar_type())), or_nothing(sums.dx, input), or_nothing(sums.dw, input),
          or_nothing(sums.db, input)};
}

Four forward(const Tensor& input, const Tensor& w, const Tensor& teacher, const Tensor& tw, const OptionalTensor& bias,
             const OptionalTensor& tbias, double temperature, int64_t chunk_rows, LinearMask mask) {
  const LinearSums sums(input, w, mask);
  const Tensor loss = allocate(input, {input.sym_size(0)}, accumulation_dtype(input.scalar_type()));
  const Tensor one = sums.any() ? at::ones({1}, loss.options()) : Tensor();
  run_chunks(arguments_of(input, w, teacher, tw, bias, tbias, temperature), registry::target(kOp, input), chunk_rows, loss, one, sums);
  return {loss, or_nothing(sums.dx, input), or_nothing(sums.dw, input), or_nothing(sums.db, input)};
}

// ---- backward

Triple allocate_backward(const Tensor&, const Tensor& input, const Tensor& w, const Tensor&, const Tensor&, const OptionalTensor&,
                         const OptionalTensor&, const OptionalTensor&, const OptionalTensor&, const OptionalTensor&, double, int64_t,
                         LinearMask mask) {
  return {mask[0] ? allocate_like(input) : nothing(input), mask[1] ? allocate_like(w) : nothing(input),
          mask[2] ? allocate(w, {w.sym_size(0)}, w.scalar_type()) : nothing(input)};
}

// grad has the dtype acc: one number, or with the gradients not given one for each row.
Triple backward(const Tensor& grad, const Tensor& input, const Tensor& w, const Tensor& teacher, const Tensor& tw, const OptionalTensor& bias,
                const OptionalTensor& tbias, const OptionalTensor& dinput, const OptionalTensor& dw, const OptionalTensor& db,
                double temperature, int64_t chunk_rows, LinearMask mask) {
  auto outputs = allocate_backward(grad, input, w, teacher, tw, bias, tbias, dinput, dw, db, temperature, chunk_rows, mask);
  auto& [dx_out, dw_out, db_out] = outputs;
  if (grad.dim() == 0) {
    if (mask[0]) scale_to(dx_out, value(dinput), grad);
    if (mask[1]) scale_to(dw_out, value(dw), grad);
    if (mask[2]) scale_to(db_out, value(db), grad);
    return outputs;
  }
  const LinearSums sums(input, w, mask);
  run_chunks(arguments_of(input, w, teacher, tw, bias, tbias, temperature), registry::target(kOp, input), chunk_rows, Tensor(), grad, sums);
  if (mask[0]) dx_out.copy_(sums.dx);
  if (mask[1]) dw_out.copy_(sums.dw.view(dw_out.sizes()));
  if (mask[2]) db_out.copy_(sums.db.view(db_out.sizes()));
  return outputs;
}

Triple backward_formula(const Tensor& grad, const Tensor& input, const Tensor& w, const Tensor& teacher, const Tensor& tw,
                        const OptionalTensor& bias, const OptionalTensor& tbias, const OptionalTensor&, const OptionalTensor&,
                        const OptionalTensor&, double temperature, int64_t, LinearMask mask) {
  const Tensor p = at::softmax(logits(teacher, tw, tbias, temperature), -1), q = at::softmax(logits(input, w, bias, temperature), -1);
  const Tensor d = (grad.dim() == 0 ? grad : grad.unsqueeze(-1)) * (q - p) * temperature;
  return {mask[0] ? d.matmul(in_acc(w)).to(input.scalar_type()) : nothing(input),
          mask[1] ? d.t().matmul(in_acc(input)).to(input.scalar_type()) : nothing(input),
          mask[2] ? d.sum(0).to(input.scalar_type()) : nothing(input)};
}

Op<decltype(linear_kl_div)> op;
Op<decltype(forward)> forward_op;
Op<decltype(backward)> backward_op;

enum Place { kOver, kTemperature, kChunkRows, kDtype };

// Of losses of the rows.
Tensor reduced_to(const Tensor& loss, Reduction over, const Tensor& input, const Tensor& w, at::ScalarType dtype) {
  return in_dtype(over == Reduction::none ? loss : loss.sum() / size_of(over, input, w), dtype);
}

Tensor run_forward(at::TensorList inputs, const Extras& extras, const LinearMask& mask, Tensors* saved) {
  const auto over = static_cast<Reduction>(extras[kOver].toInt());
  auto [loss, dx, dw, db] = forward_op(inputs[0], inputs[1], inputs[2], inputs[3], inputs[4], inputs[5], extras[kTemperature].toDouble(),
                                       extras[kChunkRows].toInt(), over == Reduction::none ? LinearMask{} : mask);
  if (saved) {
    *saved = inputs.vec();
    for (const Tensor* one : {&dx, &dw, &db}) saved->push_back(*one);
  }
  return reduced_to(loss, over, inputs[0], inputs[1], extras[kDtype].toScalarType());
}

const Differentiable kDifferentiable = {
    "pylayers::LinearKLDivBackward",
    [](at::TensorList inputs, Extras& extras, Tensors& saved) {
      const auto asks = [](const Tensor& one) { return one.defined() && one.requires_grad(); };
      return run_forward(inputs, extras, {asks(inputs[0]), asks(inputs[1]), asks(inputs[4])}, &saved);
    },
    [](const Tensor& grad, const Tensors& saved, const Extras& extras, const std::vector<bool>& mask) -> Tensors {
      const auto over = static_cast<Reduction>(extras[kOver].toInt());
      const Tensor g = in_acc(grad);
      auto [dx, dw, db] = backward_op(over == Reduction::none ? g : g / size_of(over, saved[0], saved[1]), saved[0], saved[1], saved[2], saved[3],
                                      saved[4], saved[5], saved[6], saved[7], saved[8], extras[kTemperature].toDouble(),
                                      extras[kChunkRows].toInt(), {mask[0], mask[1], mask[4]});
      return {dx, dw, Tensor(), Tensor(), db, Tensor()};
    }};

Tensor run(const Tensor& input, const Tensor& w, const Tensor& teacher, const Tensor& tw, const OptionalTensor& student_bias,
           const OptionalTensor& teacher_bias, double temperature, std::string_view reduction, std::optional<int64_t> chunk_rows,
           std::optional<at::ScalarType> dtype) {
  const Tensor &bias = value(student_bias), &tbias = value(teacher_bias);
  check(input, w, teacher, tw, bias, tbias, temperature, chunk_rows);
  const Reduction over = reduction_of(kOp, reduction, /*batches=*/true);
  const auto result = dtype.value_or(input.scalar_type());
  if (needs_formula(kOp, {&input, &w, &teacher, &tw, &bias, &tbias}) || needs_gradient({&teacher, &tw, &tbias}))
    return reduced_to(formula(input, w, teacher, tw, student_bias, teacher_bias, temperature), over, input, w, result);
  Extras extras = {static_cast<int64_t>(over), temperature, chunk_rows.value_or(0), result};
  if (needs_gradient({&input, &w, &bias})) return apply(kDifferentiable, {input, w, teacher, tw, bias, tbias}, std::move(extras));
  const at::AutoDispatchBelowADInplaceOrView guard;
  return run_forward({{input, w, teacher, tw, bias, tbias}}, extras, {}, nullptr);
}

// The products run in the lower precision, the loss is float32.
Tensor autocast(const Tensor& input, const Tensor& w, const Tensor& teacher, const Tensor& tw, const OptionalTensor& bias,
                const OptionalTensor& tbias, double temperature, std::string_view reduction, std::optional<int64_t> chunk_rows,
                std::optional<at::ScalarType> dtype) {
  const c10::impl::ExcludeDispatchKeyGuard guard(c10::autocast_dispatch_keyset);
  const auto own = autocast_dtype(input);
  const auto cast = [&](const auto& tensor) { return autocast_to(own, tensor, input); };
  return op(cast(input), cast(w), cast(teacher), cast(tw), cast(bias), cast(tbias), temperature, reduction, chunk_rows,
            dtype.value_or(at::kFloat));
}

}  // namespace

Tensor linear_kl_div(const Tensor& student_hidden, const Tensor& student_weight, const Tensor& teacher_hidden, const Tensor& teacher_weight,
                     const OptionalTensor& student_bias, const OptionalTensor& teacher_bias, double temperature, std::string_view reduction,
                     std::optional<int64_t> chunk_rows, std::optional<at::ScalarType> dtype) {
  return op(student_hidden, student_weight, teacher_hidden, teacher_weight, student_bias, teacher_bias, temperature, reduction, chunk_rows, dtype);
}

TORCH_LIBRARY_FRAGMENT(pylayers, m) {
  op.define_public(m, "linear_kl_div(Tensor student_hidden, Tensor student_weight, Tensor teacher_hidden, Tensor teacher_weight, "
                      "Tensor? student_bias=None, Tensor? teacher_bias=None, float temperature=1.0, str reduction='batchmean', "
                      "int? chunk_rows=None, ScalarType? dtype=None) -> Tensor", run, autocast);
  forward_op.define_kernel(m, "linear_kl_div_forward(Tensor input, Tensor weight, Tensor teacher, Tensor teacher_weight, Tensor? bias, "
                              "Tensor? teacher_bias, float temperature, int chunk_rows, bool[3] mask) -> (Tensor, Tensor, Tensor, Tensor)",
                           forward, allocate_forward);
  backward_op.define_backward(m, kOp, "linear_kl_div_backward(Tensor grad, Tensor input, Tensor weight, Tensor teacher, "
                                      "Tensor teacher_weight, Tensor? bias, Tensor? teacher_bias, Tensor? dinput, Tensor? dweight, "
                                      "Tensor? dbias, float temperature, int chunk_rows, bool[3] mask) -> (Tensor, Tensor, Tensor)",
                              backward, allocate_backward, backward_formula);
}

}  // namespace pylayers
