// Losses of single numbers, their sum or their mean, and the gradients by input and target.
//
// Input and target are read once for the loss and once more for the gradients. Nothing of their size is kept between the two.
#include "../pointwise_loss.h"

#include <ATen/ScalarOps.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/native/TypeProperties.h>
#include <ATen/ops/broadcast_tensors.h>
#include <ATen/ops/logaddexp.h>
#include <ATen/ops/result_type.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/xlogy.h>
#include <ATen/ops/zeros.h>

#include <array>

#include "../cuda/parts.h"
#include "autograd.h"
#include "common.h"
#include "losses.h"
#include "op.h"
#include "ops.h"

namespace pylayers {
namespace {

constexpr auto kOp = "pointwise_loss";

using Pair = std::tuple<Tensor, Tensor>;
using Mask = std::array<bool, 2>;  // of the gradients of input and target

// What the sum is divided by.
c10::SymInt size_of(const Tensor& input, int64_t reduction) {
  switch (static_cast<Reduction>(reduction)) {
    case Reduction::mean: return input.sym_numel();
    case Reduction::batchmean: return input.dim() ? input.sym_size(0) : c10::SymInt(1);
    default: return 1;
  }
}

// ---- what plain PyTorch computes

struct Plain {
  Tensor x, t, w, p;  // in acc
  PointwiseLoss kind;

  Plain(const Tensor& input, const Tensor& target, const OptionalTensor& weight, const OptionalTensor& pos_weight, int64_t kind)
      : x(in_acc(input)), t(in_acc(target)), w(in_acc(value(weight))), p(in_acc(value(pos_weight))), kind(static_cast<PointwiseLoss>(kind)) {}

  Tensor weighed(const Tensor& numbers) const { return w.defined() ? numbers * w : numbers; }
  // Of what the target gives to 1.
  Tensor positive(const Tensor& numbers) const { return p.defined() ? numbers * p : numbers; }

  // ln(1 + eˣ), with all its digits.
  static Tensor softplus(const Tensor& numbers) { return at::logaddexp(at::zeros({}, numbers.options()), numbers); }

  Tensor losses() const {
    switch (kind) {
      case PointwiseLoss::squares: return weighed((x - t).square());
      case PointwiseLoss::logits: return weighed(positive(t) * softplus(-x) + (1 - t) * softplus(x));
      case PointwiseLoss::probabilities: return weighed((at::xlogy(t, t) - t * x).masked_fill(t == 0, 0));
      default: return weighed(t.exp() * (t - x));
    }
  }
  Pair slopes() const {
    switch (kind) {
      case PointwiseLoss::squares: return {2 * (x - t), -2 * (x - t)};
      case PointwiseLoss::logits: {
        const Tensor by_input = (1 - t) * at::sigmoid(x) - positive(t) * at::sigmoid(-x);
        return {by_input, p.defined() ? (p - 1) * softplus(-x) - x : -x};
      }
      case PointwiseLoss::probabilities: return {-t, t.log() + 1 - x};
      default: return {-t.exp(), t.exp() * (t - x + 1)};
    }
  }
};

Tensor formula(const Tensor& input, const Tensor& target, const OptionalTensor& weight, const OptionalTensor& pos_weight, int64_t kind,
               int64_t reduction) {
  Tensor loss = Plain(input, target, weight, pos_weight, kind).losses();
  if (static_cast<Reduction>(reduction) != Reduction::none) loss = loss.sum() / at::Scalar(size_of(input, reduction));
  return loss.to(input.scalar_type());
}

// ---- kernels

// A tensor that is broadcast to the input, as a matrix of its rows: with one row, or none, where it has no more.
Rows rows_like(const Tensor& tensor, const Tensor& input, int64_t dim) {
  if (!tensor.defined()) return {};
  auto sizes = tensor.sizes().vec();
  if (sizes.empty()) sizes.push_back(1);
  sizes.back() = dim;
  return as_rows(tensor.expand(sizes).contiguous().expand(input.dim() ? input.sizes() : at::IntArrayRef{1}), dim);
}

struct Arguments {
  Rows x, target, weight, pos_weight;

  Arguments(const Tensor& input, const Tensor& target, const OptionalTensor& weight, const OptionalTensor& pos_weight) {
    const int64_t dim = input.dim() ? input.size(-1) : 1;
    x = as_rows(input, dim);
    this->target = as_rows(target, dim);
    this->weight = rows_like(value(weight), input, dim);
    this->pos_weight = rows_like(value(pos_weight), input, dim);
  }
};

Tensor allocate_forward(const Tensor& input, const Tensor&, const OptionalTensor&, const OptionalTensor&, int64_t, int64_t reduction) {
  return static_cast<Reduction>(reduction) == Reduction::none ? allocate_like(input) : allocate(input, {}, input.scalar_type());
}

Tensor forward(const Tensor& input, const Tensor& target, const OptionalTensor& weight, const OptionalTensor& pos_weight, int64_t kind,
               int64_t reduction) {
  Tensor loss = allocate_forward(input, target, weight, pos_weight, kind, reduction);
  const bool sums = static_cast<Reduction>(reduction) != Reduction::none;
  const int64_t count = input.numel(), size = size_of(input, reduction).expect_int();
  if (count == 0) return sums ? loss.fill_(size ? 0. : std::numeric_limits<double>::quiet_NaN()) : loss;
  const Arguments own(input, target, weight, pos_weight);
  const int64_t parts = splits_for_gpu(input) ? cuda_sum_parts(count) : (count + 16383) / 16384;
  const Tensor partial = sums ? allocate(input, {parts, 1}, accumulation_dtype(input.scalar_type())) : Tensor();
  kernels::pointwise_loss_forward(registry::target(kOp, input),
                                  sums ? Argument::output(loss, {1}) : Argument::output(loss, {own.x.rows, own.x.dim}),
                                  sums ? Argument::output(partial, {parts, 1}) : Argument(), own.x.input(), own.target.input(),
                                  own.weight.input(), own.pos_weight.input(), kind, size);
  return loss;
}

Pair allocate_backward(const Tensor&, const Tensor& input, const Tensor&, const OptionalTensor&, const OptionalTensor&, int64_t, int64_t,
                       Mask mask) {
  const auto one = [&](bool asked) { return asked ? allocate_like(input) : nothing(input); };
  return {one(mask[0]), one(mask[1])};
}

Pair backward(const Tensor& grad, const Tensor& input, const Tensor& target, const OptionalTensor& weight, const OptionalTensor& pos_weight,
              int64_t kind, int64_t reduction, Mask mask) {
  auto outputs = allocate_backward(grad, input, target, weight, pos_weight, kind, reduction, mask);
  const Arguments own(input, target, weight, pos_weight);
  if (own.x.empty()) return outputs;
  const auto& [dx, dtarget] = outputs;
  const auto output = [&](const Tensor& one, bool asked) { return asked ? Argument::output(one, {own.x.rows, own.x.dim}) : Argument(); };
  const bool each = static_cast<Reduction>(reduction) == Reduction::none;
  const Rows g = as_rows(grad, each ? own.x.dim : 1);
  kernels::pointwise_loss_backward(registry::target(kOp, input), output(dx, mask[0]), output(dtarget, mask[1]),
                                   each ? g.input() : Argument::input(g.tensor, {1}), own.x.input(), own.target.input(), own.weight.input(),
                                   own.pos_weight.input(), kind, size_of(input, reduction).expect_int());
  return outputs;
}

Pair backward_formula(const Tensor& grad, const Tensor& input, const Tensor& target, const OptionalTensor& weight,
                      const OptionalTensor& pos_weight, int64_t kind, int64_t reduction, Mask mask) {
  const Plain plain(input, target, weight, pos_weight, kind);
  const Tensor g = plain.weighed(in_acc(grad)) / at::Scalar(size_of(input, reduction));
  const auto [by_input, by_target] = plain.slopes();
  return {mask[0] ? (g * by_input).to(input.scalar_type()) : nothing(input), mask[1] ? (g * by_target).to(input.scalar_type()) : nothing(input)};
}

Op<decltype(mse_loss)> mse_op;
Op<decltype(binary_cross_entropy_with_logits)> logits_op;
Op<decltype(kl_div)> kl_div_op;
Op<decltype(forward)> forward_op;
Op<decltype(backward)> backward_op;

const Differentiable kDifferentiable = {
    "pylayers::PointwiseLossBackward",
    [](at::TensorList inputs, Extras& extras, Tensors& saved) {
      saved = inputs.vec();
      return forward_op(inputs[0], inputs[1], inputs[2], inputs[3], extras[0].toInt(), extras[1].toInt());
    },
    [](const Tensor& grad, const Tensors& saved, const Extras& extras, const std::vector<bool>& mask) -> Tensors {
      auto [dx, dtarget] = backward_op(grad, saved[0], saved[1], saved[2], saved[3], extras[0].toInt(), extras[1].toInt(), {mask[0], mask[1]});
      return {dx, dtarget, Tensor(), Tensor()};
    }};

// Of a name in sentences, a kind, and tensors in dtypes of their own; the loss is of the dtype to which they promote each other.
Tensor run(const char* name, PointwiseLoss loss, const Tensor& given, const Tensor& given_target, const OptionalTensor& given_weight,
           const OptionalTensor& given_pos_weight, Reduction reduction) {
  const auto dtype = at::result_type(given, given_target);
  Tensor input = in_dtype(given, dtype), target = in_dtype(given_target, dtype);
  check_floating(name, "input", input);
  check_matches(name, "target", target, "input", input);
  if (!target.sym_sizes().equals(input.sym_sizes())) {
    TORCH_CHECK_VALUE(loss != PointwiseLoss::logits, name, ": target must have the shape of input ", input.sym_sizes(), ", got ", target.sym_sizes());
    const auto both = at::broadcast_tensors({input, target});
    input = both[0], target = both[1];
  }
  const auto cast = [&](const OptionalTensor& tensor, const char* what) {
    if (!value(tensor).defined()) return Tensor();
    check_matches(name, what, in_dtype(*tensor, dtype), "input", input);
    return in_dtype(*tensor, dtype);
  };
  const Tensor weight = cast(given_weight, "weight"), pos_weight = cast(given_pos_weight, "pos_weight");
  const auto kind = static_cast<int64_t>(loss), over = static_cast<int64_t>(reduction);
  if (needs_formula(name, {&input, &target, &weight, &pos_weight}) || needs_gradient({&weight, &pos_weight}))
    return formula(input, target, weight, pos_weight, kind, over);
  if (needs_gradient({&input, &target})) return apply(kDifferentiable, {input, target, weight, pos_weight}, {kind, over});
  const at::AutoDispatchBelowADInplaceOrView guard;
  return forward_op(input, target, weight, pos_weight, kind, over);
}

void check_broadcast(const char* name, const char* what, const OptionalTensor& tensor, const Tensor& input) {
  if (!value(tensor).defined()) return;
  const auto from = tensor->sym_sizes(), to = input.sym_sizes();
  bool fits = from.size() <= to.size();
  for (size_t i = 0; fits && i < from.size(); ++i) {
    const auto& own = from[from.size() - 1 - i];
    fits = own == 1 || own == to[to.size() - 1 - i];
  }
  TORCH_CHECK_VALUE(fits, name, ": ", what, " must be broadcastable to the shape of input ", to, ", got ", from);
}

Tensor run_mse(const Tensor& input, const Tensor& target, std::string_view reduction, const OptionalTensor& weight) {
  constexpr auto name = "mse_loss";
  TORCH_CHECK_VALUE(!value(weight).defined() || weight->sym_sizes().equals(input.sym_sizes()), name, ": weight must have the shape of input ",
                    input.sym_sizes(), ", got ", value(weight).sym_sizes());
  return run(name, PointwiseLoss::squares, input, target, weight, {}, reduction_of(name, reduction));
}

Tensor run_logits(const Tensor& input, const Tensor& target, const OptionalTensor& weight, std::string_view reduction,
                  const OptionalTensor& pos_weight) {
  constexpr auto name = "binary_cross_entropy_with_logits";
  check_broadcast(name, "weight", weight, input);
  check_broadcast(name, "pos_weight", pos_weight, input);
  return run(name, PointwiseLoss::logits, input, target, weight, pos_weight, reduction_of(name, reduction));
}

Tensor run_kl_div(const Tensor& input, const Tensor& target, std::string_view reduction, bool log_target) {
  constexpr auto name = "kl_div";
  const auto kind = log_target ? PointwiseLoss::log_probabilities : PointwiseLoss::probabilities;
  return run(name, kind, input, target, {}, {}, reduction_of(name, reduction, /*batches=*/true));
}

// In float32, as torch has these losses under autocast.
Tensor cast(const Tensor& tensor, const Tensor& input) { return autocast_to(at::kFloat, tensor, input); }
OptionalTensor cast(const OptionalTensor& tensor, const Tensor& input) { return autocast_to(at::kFloat, tensor, input); }

Tensor autocast_mse(const Tensor& input, const Tensor& target, std::string_view reduction, const OptionalTensor& weight) {
  const c10::impl::ExcludeDispatchKeyGuard guard(c10::autocast_dispatch_keyset);
  return mse_op(cast(input, input), cast(target, input), reduction, cast(weight, input));
}
Tensor autocast_logits(const Tensor& input, const Tensor& target, const OptionalTensor& weight, std::string_view reduction,
                       const OptionalTensor& pos_weight) {
  const c10::impl::ExcludeDispatchKeyGuard guard(c10::autocast_dispatch_keyset);
  return logits_op(cast(input, input), cast(target, input), cast(weight, input), reduction, cast(pos_weight, input));
}
Tensor autocast_kl_div(const Tensor& input, const Tensor& target, std::string_view reduction, bool log_target) {
  const c10::impl::ExcludeDispatchKeyGuard guard(c10::autocast_dispatch_keyset);
  return kl_div_op(cast(input, input), cast(target, input), reduction, log_target);
}

}  // namespace

Tensor mse_loss(const Tensor& input, const Tensor& target, std::string_view reduction, const OptionalTensor& weight) {
  return mse_op(input, target, reduction, weight);
}
Tensor binary_cross_entropy_with_logits(const Tensor& input, const Tensor& target, const OptionalTensor& weight, std::string_view reduction,
                                        const OptionalTensor& pos_weight) {
  return logits_op(input, target, weight, reduction, pos_weight);
}
Tensor kl_div(const Tensor& input, const Tensor& target, std::string_view reduction, bool log_target) {
  return kl_div_op(input, target, reduction, log_target);
}

TORCH_LIBRARY_FRAGMENT(pylayers, m) {
  mse_op.define_public(m, "mse_loss(Tensor input, Tensor target, str reduction='mean', Tensor? weight=None) -> Tensor", run_mse, autocast_mse);
  logits_op.define_public(m, "binary_cross_entropy_with_logits(Tensor input, Tensor target, Tensor? weight=None, str reduction='mean', "
                             "Tensor? pos_weight=None) -> Tensor", run_logits, autocast_logits);
  kl_div_op.define_public(m, "kl_div(Tensor input, Tensor target, str reduction='mean', bool log_target=False) -> Tensor", run_kl_div,
                          autocast_kl_div);
  forward_op.define_kernel(m, "pointwise_loss_forward(Tensor input, Tensor target, Tensor? weight, Tensor? pos_weight, int kind, "
                              "int reduction) -> Tensor", forward, allocate_forward);
  backward_op.define_backward(m, kOp, "pointwise_loss_backward(Tensor grad, Tensor input, Tensor target, Tensor? weight, "
                                      "Tensor? pos_weight, int kind, int reduction, bool[2] mask) -> (Tensor, Tensor)",
                              backward, allocate_backward, backward_formula);
}

}  // namespace pylayers
