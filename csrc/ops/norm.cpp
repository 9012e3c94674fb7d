#include "norm.h"

#include <ATen/TensorOperators.h>

#include <limits>

namespace pylayers {
namespace {

std::vector<int64_t> trailing(int64_t dims) {
  std::vector<int64_t> axes(dims);
  for (int64_t i = 0; i < dims; ++i) axes[i] = i - dims;
  return axes;
}

struct Normal {  // (x − mean) · rstd, in the dtype that is computed in
  Tensor value, rstd;
  Normal(const Normalisation& norm, const Tensor& input) {
    const auto axes = trailing(norm.dims);
    Tensor x = input.to(accumulation_dtype(input.scalar_type()));
    if (norm.centred) x = x - x.mean(axes, true);
    rstd = (x.square().mean(axes, true) + norm.eps).rsqrt();
    value = x * rstd;
  }
};

Tensor scaled(const Normalisation& norm, const Tensor& x, const Tensor& weight) {
  return weight.defined() ? x * (weight.to(x.scalar_type()) + norm.offset) : x;
}

}  // namespace

void check_normalized(const char* op, const Tensor& input, c10::SymIntArrayRef normalized_shape) {
  check_floating(op, "input", input);
  const auto count = static_cast<int64_t>(normalized_shape.size());
  TORCH_CHECK_VALUE(count > 0, op, ": normalized_shape must name at least one dimension, got ()");
  TORCH_CHECK_VALUE(input.dim() >= count && row_shape(input, count).equals(normalized_shape), op,
                    ": input must end in the dimensions normalized_shape (", normalized_shape, "), got shape ", input.sym_sizes());
}

void check_parameter(const char* op, const char* name, const Tensor& parameter, const Tensor& input,
                     c10::SymIntArrayRef normalized_shape) {
  if (!parameter.defined()) return;
  TORCH_CHECK_VALUE(parameter.sym_sizes().equals(normalized_shape), op, ": ", name, " must have shape ", normalized_shape,
                    " (normalized_shape), got ", parameter.sym_sizes());
  check_matches(op, name, parameter, "input", input);
}

at::ScalarType check_residual(const char* op, const Tensor& input, const Tensor& residual, std::optional<at::ScalarType> dtype) {
  const auto own = input.scalar_type(), acc = accumulation_dtype(own);
  const auto fits = [&](at::ScalarType one) { return one == own || one == acc; };
  TORCH_CHECK_VALUE(residual.sym_sizes().equals(input.sym_sizes()), op, ": residual must have the shape of input ",
                    input.sym_sizes(), ", got ", residual.sym_sizes());
  TORCH_CHECK(residual.device() == input.device(), op, ": residual must be on the device of input (", input.device(), "), got ",
              residual.device());
  const std::string allowed = "the dtype of input (" + std::string(toString(own)) + ")" + (own == acc ? "" : " or Float");
  TORCH_CHECK_TYPE(fits(residual.scalar_type()), op, ": residual must have ", allowed, ", got ", toString(residual.scalar_type()));
  const auto result = dtype.value_or(residual.scalar_type());
  TORCH_CHECK_TYPE(fits(result), op, ": residual_dtype must be ", allowed, ", got ", toString(result));
  return result;
}

double value_or_epsilon(std::optional<double> eps, const Tensor& input) {
  if (eps) return *eps;
  return input.scalar_type() == at::kDouble ? std::numeric_limits<double>::epsilon() : std::numeric_limits<float>::epsilon();
}

Tensor autocast_residual(const Tensor& residual, const Tensor& input) {
  const auto own = input.scalar_type();
  return residual.scalar_type() == accumulation_dtype(own) ? residual : autocast_to(own, residual, input);
}

Tensor added(const Tensor& input, const Tensor& residual, at::ScalarType dtype) {
  const auto acc = accumulation_dtype(input.scalar_type());
  return (input.to(acc) + residual.to(acc)).to(dtype);
}

Tensor normalised(const Normalisation& norm, const Tensor& input, const Tensor& weight, const Tensor& bias, at::ScalarType dtype) {
  const Tensor y = scaled(norm, Normal(norm, input).value, weight);
  return (bias.defined() ? y + bias.to(y.scalar_type()) : y).to(dtype);
}

NormGradients normalised_backward(const Normalisation& norm, const Tensor& grad, const Tensor& input, const Tensor& weight,
                                  std::array<bool, 3> mask) {
  const auto axes = trailing(norm.dims);
  const Normal n(norm, input);
  const Tensor g = grad.to(n.value.scalar_type());
  const auto over_rows = [&](const Tensor& x) { return x.sum_to_size_symint(row_shape(input, norm.dims)).to(grad.scalar_type()); };
  NormGradients gradients;
  if (mask[0]) {
    const Tensor gw = scaled(norm, g, weight);
    const Tensor d = gw - n.value * (gw * n.value).mean(axes, true);
    gradients[0] = n.rstd * (norm.centred ? d - gw.mean(axes, true) : d);
  }
  if (mask[1]) gradients[1] = over_rows(g * n.value);
  if (mask[2]) gradients[2] = over_rows(g);
  return gradients;
}

}  // namespace pylayers
