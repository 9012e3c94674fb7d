#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/stack.h>

#include <algorithm>
#include <limits>

#include "autograd.h"
#include "common.h"
#include "op.h"
#include "ops.h"

namespace pylayers {
namespace {

constexpr auto kOp = "rotary";

using Pair = std::tuple<Tensor, Tensor>;

int64_t token_axis(const Tensor& x, bool heads_first) { return x.dim() - (heads_first ? 2 : 3); }
int64_t head_axis(const Tensor& x, bool heads_first) { return x.dim() - (heads_first ? 3 : 2); }

void check_heads(const Tensor& q, const Tensor& k, bool heads_first) {
  check_floating(kOp, "q", q);
  check_matches(kOp, "k", k, "q", q);
  TORCH_CHECK_VALUE(q.dim() == 3 || q.dim() == 4, kOp, ": q must have shape ",
                    heads_first ? "(batch, heads, tokens, head_dim) or (heads, tokens, head_dim)"
                                : "(batch, tokens, heads, head_dim) or (tokens, heads, head_dim)", ", got ", q.sym_sizes());
  auto expected = q.sym_sizes().vec();
  if (k.dim() == q.dim()) expected[head_axis(q, heads_first)] = k.sym_size(head_axis(k, heads_first));
  TORCH_CHECK_VALUE(k.sym_sizes().equals(expected), kOp, ": k must have the shape of q ", q.sym_sizes(),
                    " but for the number of heads, in dimension ", head_axis(q, heads_first), ", got ", k.sym_sizes());
}

void check_table(const char* name, const Tensor& table, const Tensor& q) {
  const bool both_wide = table.scalar_type() == at::kDouble && q.scalar_type() == at::kDouble;
  TORCH_CHECK_TYPE(table.scalar_type() == at::kFloat || both_wide, kOp, ": ", name, " must be float32, whatever the dtype of q (or float64 beside float64), got ",
                   toString(table.scalar_type()));
  TORCH_CHECK(table.device() == q.device(), kOp, ": ", name, " must be on the device of q (", q.device(), "), got ", table.device());
  TORCH_CHECK_VALUE(!(c10::GradMode::is_enabled() && table.requires_grad()), kOp, ": ", name,
                    " must not require grad, since tables have no gradient here: pass ", name, ".detach()");
}

void check_tables(const Tensor& q, const Tensor& cos, const Tensor& sin, const Tensor& positions, bool heads_first) {
  check_table("cos", cos, q);
  check_table("sin", sin, q);
  TORCH_CHECK_VALUE(cos.dim() == 2 || cos.dim() == 3, kOp, ": cos must have shape (rows, half) or (batch, tokens, half), got ",
                    cos.sym_sizes());
  TORCH_CHECK_VALUE(sin.sym_sizes().equals(cos.sym_sizes()), kOp, ": sin must have the shape of cos ", cos.sym_sizes(), ", got ",
                    sin.sym_sizes());
  TORCH_CHECK_TYPE(sin.scalar_type() == cos.scalar_type(), kOp, ": sin must have the dtype of cos (", toString(cos.scalar_type()),
                   "), got ", toString(sin.scalar_type()));
  TORCH_CHECK_VALUE(2 * cos.sym_size(-1) <= q.sym_size(-1), kOp, ": cos must have at most head_dim / 2 columns, one for each pair of ",
                    "the ", q.sym_size(-1), " features of a head, got ", cos.sym_size(-1));
  const auto tokens = q.sym_size(token_axis(q, heads_first));
  if (cos.dim() == 3) {
    const auto batch = q.dim() == 4 ? q.sym_size(0) : c10::SymInt(1);
    TORCH_CHECK_VALUE(!positions.defined(), kOp, ": positions must be left out where cos has a row for every token, got cos ",
                      cos.sym_sizes());
    TORCH_CHECK_VALUE(cos.sym_size(1) == tokens && (cos.sym_size(0) == 1 || cos.sym_size(0) == batch), kOp,
                      ": cos must have shape (", batch, ", ", tokens, ", half), a row for every token, got ", cos.sym_sizes());
  } else if (!positions.defined()) {
    TORCH_CHECK_VALUE(cos.sym_size(0) >= tokens, kOp, ": cos must have a row for each of the ", tokens, " tokens, got ",
                      cos.sym_sizes());
  } else {
    TORCH_CHECK_VALUE(cos.sym_size(0) > 0, kOp, ": cos must have a row for every position, got ", cos.sym_sizes());
  }
}

void check_positions(const Tensor& positions, const Tensor& q, bool heads_first) {
  if (!positions.defined()) return;
  TORCH_CHECK_TYPE(positions.scalar_type() == at::kLong || positions.scalar_type() == at::kInt, kOp,
                   ": positions must be int64 or int32, got ", toString(positions.scalar_type()));
  TORCH_CHECK(positions.device() == q.device(), kOp, ": positions must be on the device of q (", q.device(), "), got ",
              positions.device());
  const auto tokens = q.sym_size(token_axis(q, heads_first));
  const auto batch = q.dim() == 4 ? q.sym_size(0) : c10::SymInt(1);
  const bool for_each = positions.dim() == 2 && (positions.sym_size(0) == 1 || positions.sym_size(0) == batch);
  TORCH_CHECK_VALUE((positions.dim() == 1 || for_each) && positions.sym_size(-1) == tokens, kOp, ": positions must have shape (", batch, ", ", tokens, ") or (", tokens, ",), one for every token, got ",
                    positions.sym_sizes());
}

// On the CPU, where nothing has to wait for the values. The kernels of a GPU, and what stands in for them, give NaN.
void check_rows(const Tensor& positions, const Tensor& table) {
  if (!positions.defined()) return;
  constexpr c10::DispatchKeySet without_values({c10::DispatchKey::Python, c10::DispatchKey::Functionalize});
  const bool transformed = c10::impl::tls_is_dispatch_key_included(c10::DispatchKey::FuncTorchDynamicLayerFrontMode);
  if (!positions.is_cpu() || positions.unsafeGetTensorImpl()->key_set().has_any(without_values) || transformed) return;
  const Tensor flat = positions.to(at::kLong).contiguous();
  const int64_t rows = table.size(0);
  const auto* begin = flat.const_data_ptr<int64_t>();
  const auto wrong = std::find_if(begin, begin + flat.numel(), [&](int64_t row) { return row < 0 || row >= rows; });
  TORCH_CHECK_INDEX(wrong == begin + flat.numel(), kOp, ": positions must be between 0 and ", rows - 1, ", the rows of cos, got ", *wrong);
}

// The rows of the tokens, with a dimension for the heads.
Tensor rows_of(const Tensor& table, const Tensor& positions, const Tensor& q, bool heads_first) {
  Tensor rows = table;
  if (positions.defined()) {
    const Tensor known = positions.to(at::kLong).clamp(c10::Scalar(0), table.sym_size(0) - 1);
    rows = table.index({known}).masked_fill((known != positions).unsqueeze(-1), std::numeric_limits<double>::quiet_NaN());
  } else if (table.dim() == 2) {
    rows = table.narrow_symint(0, 0, q.sym_size(token_axis(q, heads_first)));
  }
  return rows.to(accumulation_dtype(q.scalar_type())).unsqueeze(heads_first ? -3 : -2);
}

Tensor turned(const Tensor& x, const Tensor& c, const Tensor& s, bool interleaved) {
  const auto half = c.sym_size(-1);
  const auto acc = x.to(c.scalar_type());
  const auto part = [&](int index) {
    return interleaved ? acc.narrow_symint(-1, 0, 2 * half).unflatten_symint(-1, {half, 2}).select(-1, index)
                       : acc.narrow_symint(-1, index * half, half);
  };
  const Tensor a = part(0), b = part(1), first = a * c - b * s, second = b * c + a * s;
  const Tensor rotated = interleaved ? at::stack({first, second}, -1).flatten(-2) : at::cat({first, second}, -1);
  return at::cat({rotated.to(x.scalar_type()), x.narrow_symint(-1, 2 * half, x.sym_size(-1) - 2 * half)}, -1);
}

Pair formula(const OptionalTensor& q, const OptionalTensor& k, const Tensor& cos, const Tensor& sin, const OptionalTensor& positions,
             bool interleaved, bool heads_first, bool inverse) {
  const Tensor& like = value(q).defined() ? *q : *k;
  check_rows(value(positions), cos);
  const Tensor c = rows_of(cos, value(positions), like, heads_first), s = rows_of(sin, value(positions), like, heads_first);
  const auto one = [&](const OptionalTensor& x) {
    return value(x).defined() ? turned(*x, c, inverse ? -s : s, interleaved) : nothing(like);
  };
  return {one(q), one(k)};
}

// As kernels are to see it: [batch, tokens, heads, head_dim] with unit stride in the last dimension.
Argument heads_of(const Tensor& x, bool heads_first, bool written) {
  const int64_t token = token_axis(x, heads_first), head = head_axis(x, heads_first);
  const bool batched = x.dim() == 4;
  const int64_t sizes[] = {batched ? x.size(0) : 1, x.size(token), x.size(head), x.size(-1)};
  const int64_t strides[] = {batched ? x.stride(0) : 0, x.stride(token), x.stride(head), 1};
  return written ? Argument::output(x, sizes, strides) : Argument::input(x, sizes, strides);
}

Tensor unit_stride(const OptionalTensor& x) {
  if (!value(x).defined() || x->numel() == 0) return {};
  return x->stride(-1) == 1 || x->size(-1) == 1 ? *x : x->contiguous();
}

// [batch, rows, half] with a stride of 0 where all share the rows.
Argument table_of(const Tensor& table, int64_t batch) {
  const int64_t sizes[] = {batch, table.size(-2), table.size(-1)};
  const int64_t strides[] = {table.dim() == 3 && table.size(0) > 1 ? table.stride(0) : 0, table.stride(-2), 1};
  return Argument::input(table, sizes, strides);
}

Argument positions_of(const Tensor& positions, int64_t batch) {
  if (!positions.defined()) return {};
  const int64_t sizes[] = {batch, positions.size(-1)};
  const int64_t strides[] = {positions.dim() == 2 && positions.size(0) > 1 ? positions.stride(0) : 0, 1};
  return Argument::input(positions, sizes, strides);
}

Pair allocate_rotated(const OptionalTensor& q, const OptionalTensor& k, const Tensor&, const Tensor&, const OptionalTensor&, bool, bool,
                      bool) {
  const Tensor& like = value(q).defined() ? *q : *k;
  return {value(q).defined() ? allocate_like(*q) : nothing(like), value(k).defined() ? allocate_like(*k) : nothing(like)};
}

Pair rotate(const OptionalTensor& q, const OptionalTensor& k, const Tensor& cos, const Tensor& sin, const OptionalTensor& positions,
            bool interleaved, bool heads_first, bool inverse) {
  auto outputs = allocate_rotated(q, k, cos, sin, positions, interleaved, heads_first, inverse);
  auto& [q_out, k_out] = outputs;
  if (cos.size(-1) == 0) {
    if (value(q).defined()) q_out.copy_(*q);
    if (value(k).defined()) k_out.copy_(*k);
    return outputs;
  }
  const Tensor one = unit_stride(q), other = unit_stride(k);
  if (!one.defined() && !other.defined()) return outputs;
  const Tensor& x = one.defined() ? one : other;
  const Target target = registry::target(kOp, x);
  if (!registry::emulates(target.backend)) check_rows(value(positions), cos);
  const auto dtype = accumulation_dtype(x.scalar_type());
  const Tensor c = unit_stride(cos.to(dtype)), s = unit_stride(sin.to(dtype));
  const Tensor rows = value(positions).defined() ? unit_stride(positions->to(at::kLong)) : Tensor();
  const int64_t batch = x.dim() == 4 ? x.size(0) : 1;
  // The first of a kernel's two tensors is always there.
  const Tensor &first = one.defined() ? q_out : k_out, second = one.defined() && other.defined() ? other : Tensor();
  kernels::rotary(target, heads_of(first, heads_first, true), second.defined() ? heads_of(k_out, heads_first, true) : Argument(),
                  heads_of(x, heads_first, false), second.defined() ? heads_of(second, heads_first, false) : Argument(),
                  table_of(c, batch), table_of(s, batch), positions_of(rows, batch), int64_t(interleaved), int64_t(inverse));
  return outputs;
}

Op<decltype(rotary)> op;
Op<decltype(rotate)> rotate_op;

// Linear, so its own derivative; and the gradient is turned back.
const DifferentiableToSeveral kDifferentiable = {
    "pylayers::RotaryBackward",
    [](at::TensorList inputs, Extras& extras, Tensors& saved) -> Tensors {
      saved = {inputs[2], inputs[3], inputs[4]};
      auto [q, k] = rotate_op(inputs[0], inputs[1], inputs[2], inputs[3], inputs[4], extras[0].toBool(), extras[1].toBool(),
                              extras[2].toBool());
      return {q, k};
    },
    [](const Tensors& grads, const Tensors& saved, const Extras& extras, const std::vector<bool>& mask) -> Tensors {
      const Tensor dq = mask[0] ? grads[0] : Tensor(), dk = mask[1] ? grads[1] : Tensor();
      Tensors gradients(5);
      if (!dq.defined() && !dk.defined()) return gradients;
      std::tie(gradients[0], gradients[1]) =
          rotate_op(dq, dk, saved[0], saved[1], saved[2], extras[0].toBool(), extras[1].toBool(), !extras[2].toBool());
      if (!dq.defined()) gradients[0].reset();
      if (!dk.defined()) gradients[1].reset();
      return gradients;
    }};

Pair differentiable(const OptionalTensor& q, const OptionalTensor& k, const Tensor& cos, const Tensor& sin,
                    const OptionalTensor& positions, bool interleaved, bool heads_first, bool inverse) {
  if (needs_formula(kOp, {&value(q), &value(k), &cos, &sin}))
    return formula(q, k, cos, sin, positions, interleaved, heads_first, inverse);
  const Tensors outputs =
      apply(kDifferentiable, {value(q), value(k), cos, sin, value(positions)}, {interleaved, heads_first, inverse});
  return {outputs[0], outputs[1]};
}

Pair run(const Tensor& q, const Tensor& k, const Tensor& cos, const Tensor& sin, const OptionalTensor& positions, bool interleaved,
         bool heads_first) {
  check_heads(q, k, heads_first);
  check_positions(value(positions), q, heads_first);
  check_tables(q, cos, sin, value(positions), heads_first);
  if (needs_formula(kOp, {&q, &k, &cos, &sin}) || needs_gradient({&q, &k}))
    return differentiable(q, k, cos, sin, positions, interleaved, heads_first, false);
  const at::AutoDispatchBelowADInplaceOrView guard;
  return rotate_op(q, k, cos, sin, positions, interleaved, heads_first, false);
}

// The wider of the two dtypes; the tables are never cast.
Pair autocast(const Tensor& q, const Tensor& k, const Tensor& cos, const Tensor& sin, const OptionalTensor& positions, bool interleaved,
              bool heads_first) {
  const c10::impl::ExcludeDispatchKeyGuard guard(c10::autocast_dispatch_keyset);
  const auto dtype = c10::promoteTypes(q.scalar_type(), k.scalar_type());
  return rotary(autocast_to(dtype, q, q), autocast_to(dtype, k, q), cos, sin, positions, interleaved, heads_first);
}

}  // namespace

std::tuple<Tensor, Tensor> rotary(const Tensor& q, const Tensor& k, const Tensor& cos, const Tensor& sin, const OptionalTensor& positions,
                                  bool interleaved, bool heads_first) {
  return op(q, k, cos, sin, positions, interleaved, heads_first);
}

TORCH_LIBRARY_FRAGMENT(pylayers, m) {
  op.define_public(m, "rotary(Tensor q, Tensor k, Tensor cos, Tensor sin, Tensor? positions=None, bool interleaved=False, "
                      "bool heads_first=False) -> (Tensor, Tensor)", run, autocast);
  rotate_op.define_backward(m, kOp, "rotary_rotate(Tensor? q, Tensor? k, Tensor cos, Tensor sin, Tensor? positions, bool interleaved, "
                                    "bool heads_first, bool inverse) -> (Tensor, Tensor)",
                            rotate, allocate_rotated, differentiable);
}

}  // namespace pylayers
