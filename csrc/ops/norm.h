// What the ops that normalise share: checks, and the formulas that stand in for their kernels.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <vector>

#include "common.h"

namespace pylayers {

struct Normalisation {
  int64_t dims;  // the trailing ones that make up a row
  double eps;
  double offset = 0;     // added to the weight
  bool centred = false;  // the mean is subtracted first
};

void check_normalized(const char* op, const Tensor& input, c10::SymIntArrayRef normalized_shape);
// A weight or bias, where there is one.
void check_parameter(const char* op, const char* name, const Tensor& parameter, const Tensor& input,
                     c10::SymIntArrayRef normalized_shape);
// Returns the dtype of input + residual: the one asked for, else that of residual.
at::ScalarType check_residual(const char* op, const Tensor& input, const Tensor& residual, std::optional<at::ScalarType> dtype);
double value_or_epsilon(std::optional<double> eps, const Tensor& input);

// A residual under autocast: in a dtype that check_residual accepts.
Tensor autocast_residual(const Tensor& residual, const Tensor& input);

inline c10::SymIntArrayRef rows_shape(const Tensor& input, int64_t dims) { return input.sym_sizes().slice(0, input.dim() - dims); }
inline c10::SymIntArrayRef row_shape(const Tensor& input, int64_t dims) { return input.sym_sizes().slice(input.dim() - dims); }
inline int64_t row_length(const Tensor& input, int64_t dims) {
  return c10::multiply_integers(input.sizes().slice(input.dim() - dims));
}

// input + residual in another dtype.
Tensor added(const Tensor& input, const Tensor& residual, at::ScalarType dtype);

Tensor normalised(const Normalisation& norm, const Tensor& input, const Tensor& weight, const Tensor& bias, at::ScalarType dtype);

// Gradients by input, weight and bias, where mask asks for them: input's in the dtype that is computed in.
using NormGradients = std::array<Tensor, 3>;
NormGradients normalised_backward(const Normalisation& norm, const Tensor& grad, const Tensor& input, const Tensor& weight,
                                  std::array<bool, 3> mask);

}  // namespace pylayers
