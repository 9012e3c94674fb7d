// The public ops as C++ functions: each one call through the dispatcher. Documented in pylayers/functional.
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <c10/core/SymIntArrayRef.h>

#include <optional>
#include <string_view>

#include "../registry.h"

namespace pylayers {

PYLAYERS_API at::Tensor rms_norm(const at::Tensor& input, c10::SymIntArrayRef normalized_shape,
                                 const std::optional<at::Tensor>& weight = {}, std::optional<double> eps = {}, double offset = 0);
PYLAYERS_API at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up);
PYLAYERS_API at::Tensor swiglu_packed(const at::Tensor& input);
PYLAYERS_API at::Tensor linear(const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& bias = {},
                               std::optional<std::string_view> activation = {});
PYLAYERS_API void two_sided_uniform_(const at::Tensor& self, double low = 5, double high = 10, double p_zero = .5,
                                     std::optional<at::Generator> generator = {});

}  // namespace pylayers
