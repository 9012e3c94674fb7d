#include <ATen/core/Tensor.h>
#include <ATen/ops/fft_ifft.h>
#include <ATen/ops/fft_irfft.h>
#include <ATen/ops/fft_rfft.h>
#include <ATen/ops/real.h>
#include <ATen/ops/view_as_complex.h>
#include <ATen/ops/view_as_real.h>

#include <cmath>

#include "autograd.h"
#include "common.h"
#include "op.h"
#include "ops.h"

namespace pylayers {
namespace {

constexpr auto kOp = "leading_fourier";

void check(const Tensor& input, std::optional<int64_t> n_coeff, int64_t dim, std::string_view norm, bool onesided) {
  check_floating(kOp, "input", input);
  TORCH_CHECK_VALUE(norm == "backward" || norm == "ortho" || norm == "forward", kOp,
                    ": norm must be 'backward', 'ortho' or 'forward', got '", std::string(norm), "'");
  TORCH_CHECK_VALUE(-input.dim() <= dim && dim < input.dim(), kOp, ": dim must name a dimension of input, got ", dim, " for shape ",
                    input.sym_sizes());
  const auto samples = input.sym_size(dim);
  TORCH_CHECK_VALUE(samples > 0, kOp, ": input must have samples along dim ", dim, ", got shape ", input.sym_sizes());
  TORCH_CHECK_VALUE(!n_coeff || !onesided, kOp, ": n_coeff must be None where onesided is True, got ", n_coeff.value_or(0));
  TORCH_CHECK_VALUE(!n_coeff || (*n_coeff > 0 && samples / 2 + 1 >= *n_coeff), kOp, ": n_coeff must be between 1 and ", samples / 2 + 1,
                    " (the others are conjugates of these), got ", n_coeff.value_or(0));
}

c10::SymInt coefficients(std::optional<int64_t> n_coeff, const c10::SymInt& samples, bool onesided) {
  return n_coeff ? c10::SymInt(*n_coeff) : onesided ? samples / 2 + 1 : (samples + 1) / 2;
}

double scale_of(std::string_view norm, int64_t samples) {
  const auto count = static_cast<double>(samples);
  return norm == "backward" ? 1 : norm == "ortho" ? 1 / std::sqrt(count) : 1 / count;
}

// The last dimension is transformed. As differentiable operations.
Tensor transform(const Tensor& x, const c10::SymInt& n, std::string_view norm) {
  const auto dtype = accumulation_dtype(x.scalar_type());
  if (x.sym_numel() == 0) return x.narrow_symint(-1, 0, n).to(c10::toComplexType(dtype));  // the library refuses to
  const Tensor all = at::fft_rfft(x.scalar_type() == dtype ? x : x.to(dtype), std::nullopt, -1, norm);
  if (const auto count = n.maybe_as_int(); count && all.sym_size(-1).maybe_as_int() == count) return all;
  const Tensor y = all.narrow_symint(-1, 0, n);
  return n * 8 <= all.sym_size(-1) ? y.clone(at::MemoryFormat::Contiguous) : y;  // a view keeps the memory of all
}

Tensor allocate_backward(const Tensor& grad, c10::SymInt samples, std::string_view) {
  auto sizes = grad.sym_sizes().vec();
  sizes.back() = samples;
  return allocate(grad, sizes, c10::toRealValueType(grad.scalar_type()));
}

// dx_m = scale · Re Σ_k grad_k e^{2πikm/samples}: the real inverse transform of a half spectrum that has grad_k / 2 where a
// coefficient and its conjugate add up to that, and grad_k where there is one.
Tensor backward(const Tensor& grad, c10::SymInt samples, std::string_view norm) {
  const int64_t count = samples.expect_int(), dim = 2 * (count / 2 + 1);
  const Tensor pairs = at::view_as_real(grad);
  const Rows g = as_rows(pairs, 2 * grad.size(-1));
  if (g.empty()) return allocate_backward(grad, samples, norm);
  auto sizes = pairs.sizes().vec();
  sizes[sizes.size() - 2] = dim / 2;
  const Tensor spectrum = allocate(pairs, c10::fromIntArrayRefSlow(sizes), pairs.scalar_type());
  kernels::leading_fourier_backward(registry::target(kOp, grad), Argument::output(spectrum, {g.rows, dim}), g.input(),
                                    scale_of(norm, count), count);
  return at::fft_irfft(at::view_as_complex(spectrum), count, -1, "forward");  // that norm does not scale the inverse
}

Tensor backward_formula(const Tensor& grad, c10::SymInt samples, std::string_view norm) {
  const auto inverse = norm == "backward" ? "forward" : norm == "ortho" ? "ortho" : "backward";
  return at::real(at::fft_ifft_symint(grad, samples, -1, inverse)).contiguous();
}

Op<decltype(leading_fourier)> op;
Op<decltype(backward)> backward_op;

const Differentiable kDifferentiable = {
    "pylayers::LeadingFourierBackward",
    [](at::TensorList inputs, Extras& extras, Tensors&) {
      const Tensor& x = inputs[0];
      const Tensor y = transform(x, extras[0].toSymInt(), extras[1].toStringView());
      extras = {x.sym_size(-1), extras[1], static_cast<int64_t>(x.scalar_type())};
      return y;
    },
    [](const Tensor& grad, const Tensors&, const Extras& extras, const std::vector<bool>&) -> Tensors {
      const Tensor dx = backward_op(grad, extras[0].toSymInt(), extras[1].toStringView());
      return {dx.to(static_cast<at::ScalarType>(extras[2].toInt()))};
    }};

Tensor run_last(const Tensor& x, const c10::SymInt& n, std::string_view norm) {
  if (needs_formula(kOp, {&x})) return transform(x, n, norm);
  if (needs_gradient({&x})) return apply(kDifferentiable, {x}, {n, std::string(norm)});
  const at::AutoDispatchBelowADInplaceOrView guard;
  return transform(x, n, norm);
}

Tensor run(const Tensor& input, std::optional<int64_t> n_coeff, int64_t dim, std::string_view norm, bool onesided) {
  check(input, n_coeff, dim, norm, onesided);
  const auto n = coefficients(n_coeff, input.sym_size(dim), onesided);
  if (dim == -1 || dim == input.dim() - 1) return run_last(input, n, norm);
  return run_last(input.movedim(dim, -1), n, norm).movedim(-1, dim);
}

}  // namespace

Tensor leading_fourier(const Tensor& input, std::optional<int64_t> n_coeff, int64_t dim, std::string_view norm, bool onesided) {
  return op(input, n_coeff, dim, norm, onesided);
}

TORCH_LIBRARY_FRAGMENT(pylayers, m) {
  op.define_public(m, "leading_fourier(Tensor input, int? n_coeff=None, int dim=-1, str norm=\"backward\", bool onesided=False) -> Tensor",
                   run);
  backward_op.define_backward(m, kOp, "leading_fourier_backward(Tensor grad, SymInt samples, str norm) -> Tensor", backward,
                              allocate_backward, backward_formula);
}

}  // namespace pylayers
