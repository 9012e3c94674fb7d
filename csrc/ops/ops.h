// The public ops as C++ functions: each one call through the dispatcher. Documented in pylayers/functional.
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/List.h>
#include <ATen/core/Tensor.h>
#include <c10/core/SymIntArrayRef.h>
#include <c10/util/OptionalArrayRef.h>

#include <optional>
#include <string_view>

#include "../registry.h"

namespace pylayers {

PYLAYERS_API at::Tensor rms_norm(const at::Tensor& input, c10::SymIntArrayRef normalized_shape,
                                 const std::optional<at::Tensor>& weight = {}, std::optional<double> eps = {}, double offset = 0);
PYLAYERS_API at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up);
PYLAYERS_API at::Tensor swiglu_packed(const at::Tensor& input);
PYLAYERS_API at::Tensor linear(const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& bias = {},
                               std::optional<std::string_view> activation = {}, double scale = 1);
PYLAYERS_API at::Tensor bilinear(const at::Tensor& input1, const at::Tensor& input2, const at::Tensor& weight,
                                 const std::optional<at::Tensor>& bias = {});
PYLAYERS_API at::Tensor tensor_reduction(const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& bias = {},
                                         bool symmetric = false);
PYLAYERS_API at::Tensor parallel_linear(const at::Tensor& input, at::TensorList weights,
                                        const c10::List<std::optional<at::Tensor>>& biases,
                                        std::optional<std::string_view> activation = {});
PYLAYERS_API at::Tensor leading_fourier(const at::Tensor& input, std::optional<int64_t> n_coeff = {}, int64_t dim = -1,
                                        std::string_view norm = "backward", bool onesided = false);
PYLAYERS_API at::Tensor center(const at::Tensor& input, at::OptionalIntArrayRef dim = {});
PYLAYERS_API at::Tensor centered_affine(const at::Tensor& input, const std::optional<at::Tensor>& weight,
                                        const std::optional<at::Tensor>& bias, int64_t dim = 0);
PYLAYERS_API at::Tensor halve_until(const at::Tensor& input, double threshold = 1);
PYLAYERS_API void two_sided_uniform_(const at::Tensor& self, double low = 5, double high = 10, double p_zero = .5,
                                     std::optional<at::Generator> generator = {});

}  // namespace pylayers
