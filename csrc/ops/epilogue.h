// What follows the product of a linear layer: y = activation(scale · (product + bias)).
#pragma once

#include <array>
#include <string_view>
#include <tuple>

#include "../activation.h"
#include "common.h"

namespace pylayers {

using Pair = std::tuple<Tensor, Tensor>;

// ValueError for an unknown name.
Activation parse_activation(const char* op, std::optional<std::string_view> name);

// As a differentiable operation of ATen.
Tensor activate(const Tensor& x, Activation activation);

// With autograd: keeps the product until its gradient is known.
Tensor epilogue(const Tensor& product, const OptionalTensor& bias, double scale, Activation activation);

// Below autograd; y may be the memory of product.
void run_epilogue(const Target& target, const Tensor& y, const Tensor& product, const OptionalTensor& bias, double scale,
                  int64_t activation);

// Gradients of product and bias. saved: the output where derivative_from_output holds, else the product.
Pair epilogue_backward(const Tensor& grad, const Tensor& saved, const OptionalTensor& bias, double scale, int64_t activation,
                       std::array<bool, 2> mask);
Pair epilogue_backward_formula(const Tensor& grad, const Tensor& saved, const OptionalTensor& bias, double scale, int64_t activation,
                               std::array<bool, 2> mask);

}  // namespace pylayers
