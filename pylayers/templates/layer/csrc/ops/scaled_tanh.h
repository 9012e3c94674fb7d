#pragma once

#include <ATen/core/Tensor.h>

namespace pylayers {

at::Tensor call_scaled_tanh(const at::Tensor& input, const at::Tensor& weight, const at::Tensor& bias);

}  // namespace pylayers
