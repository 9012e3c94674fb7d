#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/stack.h>

#include "../philox.h"
#include "autograd.h"
#include "common.h"
#include "op.h"
#include "ops.h"
#include "random.h"

namespace pylayers {
namespace {

constexpr auto kOp = "dropout_add";

void check(const Tensor& input, const Tensor& residual, double p) {
  check_floating(kOp, "input", input);
  check_matches(kOp, "residual", residual, "input", input);
  TORCH_CHECK_VALUE(residual.sym_sizes().equals(input.sym_sizes()), kOp, ": residual must have the shape of input ", input.sym_sizes(),
                    ", got ", residual.sym_sizes());
  TORCH_CHECK_VALUE(p >= 0 && p <= 1, kOp, ": p must be a probability between 0 and 1, got ", p);
}

// True where an element is dropped.
Tensor dropped(const Tensor& like, const Tensor& seed, double p) {
  const auto count = like.sym_numel();
  const Tensor counter = at::arange((count + 3) / 4, like.options().dtype(at::kLong).memory_format(std::nullopt));
  const auto words = philox(counter, seed);
  const Tensor word = at::stack(words, -1).flatten().narrow_symint(0, 0, count).view_symint(like.sym_sizes());
  return word.bitwise_right_shift(1) < int64_t{philox_threshold(p)};
}

Tensor dropout(const Tensor& x, const Tensor& seed, double p) {
  return (x.to(accumulation_dtype(x.scalar_type())) * dropout_scale(p)).masked_fill(dropped(x, seed, p), 0);
}

Tensor formula(const Tensor& input, const Tensor& residual, const Tensor& seed, double p) {
  const Tensor x = dropout(input, seed, p);
  return (residual.to(x.scalar_type()) + x).to(input.scalar_type());
}

Tensor backward_formula(const Tensor& grad, const Tensor& seed, double p) { return dropout(grad, seed, p).to(grad.scalar_type()); }

int64_t row_length(const Tensor& tensor) { return tensor.dim() ? tensor.size(-1) : 1; }

// Rows that begin within the four elements of a counter are not for kernels: the matrix is then copied, if it has gaps.
Rows rows_of(const Tensor& tensor) {
  const int64_t dim = row_length(tensor);
  return as_rows(dim % 4 ? tensor.contiguous() : tensor, dim);
}

// Without dimensions a seed is a number, of shape (1,) it is where the kernel runs.
Argument seed_of(const Tensor& seed) { return seed.dim() ? Argument::input(seed, {1}) : Argument(); }
int64_t key_of(const Tensor& seed) { return seed.dim() ? 0 : *seed.const_data_ptr<int64_t>(); }

void check_seed(const Tensor& seed, const Tensor& like) {
  TORCH_CHECK_TYPE(seed.scalar_type() == at::kLong, kOp, ": seed must be int64, got ", toString(seed.scalar_type()));
  const bool fits = seed.dim() ? seed.numel() == 1 && seed.device() == like.device() : seed.is_cpu();
  TORCH_CHECK(fits, kOp, ": seed must be a number, on the CPU, or of one element on the device of input (", like.device(),
              "), got shape ", seed.sizes(), " on ", seed.device());
}

Tensor allocate_forward(const Tensor& input, const Tensor&, const Tensor&, double) { return allocate_like(input); }

Tensor forward(const Tensor& input, const Tensor& residual, const Tensor& seed, double p) {
  check_seed(seed, input);
  Tensor y = allocate_forward(input, residual, seed, p);
  const Rows x = rows_of(input), r = rows_of(residual);
  if (x.empty()) return y;
  kernels::dropout_add_forward(registry::target(kOp, input), Argument::output(y, {x.rows, x.dim}), x.input(), r.input(), seed_of(seed),
                               key_of(seed), p);
  return y;
}

Tensor allocate_backward(const Tensor& grad, const Tensor&, double) { return allocate_like(grad); }

Tensor backward(const Tensor& grad, const Tensor& seed, double p) {
  check_seed(seed, grad);
  Tensor dx = allocate_backward(grad, seed, p);
  const Rows g = rows_of(grad);
  if (g.empty()) return dx;
  kernels::dropout_add_backward(registry::target(kOp, grad), Argument::output(dx, {g.rows, g.dim}), g.input(), seed_of(seed),
                                key_of(seed), p);
  return dx;
}

Op<decltype(dropout_add)> op;
Op<decltype(forward)> forward_op;
Op<decltype(backward)> backward_op;

const Differentiable kDifferentiable = {
    "pylayers::DropoutAddBackward",
    [](at::TensorList inputs, Extras& extras, Tensors& saved) {
      saved = {extras[1].toTensor()};
      extras.pop_back();
      return forward_op(inputs[0], inputs[1], saved[0], extras[0].toDouble());
    },
    [](const Tensor& grad, const Tensors& saved, const Extras& extras, const std::vector<bool>& mask) -> Tensors {
      return {mask[0] ? backward_op(grad, saved[0], extras[0].toDouble()) : Tensor(), grad};
    }};

Tensor run(const Tensor& input, const Tensor& residual, double p, bool training, Generator generator) {
  check(input, residual, p);
  if (!training || p == 0) return input + residual;
  const Tensor seed = draw_seed(kOp, input, generator);
  if (needs_formula(kOp, {&input, &residual})) return formula(input, residual, seed, p);
  if (needs_gradient({&input, &residual})) return apply(kDifferentiable, {input, residual}, {p, seed});
  const at::AutoDispatchBelowADInplaceOrView guard;
  return forward_op(input, residual, seed, p);
}

// As torch's sum does: the wider of the two dtypes.
Tensor autocast(const Tensor& input, const Tensor& residual, double p, bool training, Generator generator) {
  const c10::impl::ExcludeDispatchKeyGuard guard(c10::autocast_dispatch_keyset);
  const auto dtype = c10::promoteTypes(input.scalar_type(), residual.scalar_type());
  return op(autocast_to(dtype, input, input), autocast_to(dtype, residual, input), p, training, std::move(generator));
}

}  // namespace

Tensor dropout_add(const Tensor& input, const Tensor& residual, double p, bool training, Generator generator) {
  return op(input, residual, p, training, std::move(generator));
}

TORCH_LIBRARY_FRAGMENT(pylayers, m) {
  op.define_public(m, "dropout_add(Tensor input, Tensor residual, float p=0.5, bool training=True, Generator? generator=None) -> Tensor",
                   run, autocast, {at::Tag::nondeterministic_seeded});
  // In vmap without a batched input too: whether there is one mask for all is for the caller to say.
  m.impl("dropout_add", torch::dispatch(c10::DispatchKey::FuncTorchVmapMode, run));
  forward_op.define_kernel(m, "dropout_add_forward(Tensor input, Tensor residual, Tensor seed, float p) -> Tensor", forward,
                           allocate_forward);
  m.impl("dropout_add_forward", torch::dispatch(c10::DispatchKey::FuncTorchBatched, formula));
  backward_op.define_backward(m, kOp, "dropout_add_backward(Tensor grad, Tensor seed, float p) -> Tensor", backward, allocate_backward,
                              backward_formula);
}

}  // namespace pylayers
