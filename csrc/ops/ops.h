// The public ops as C++ functions: each one call through the dispatcher. Documented in pylayers/functional.
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/List.h>
#include <ATen/core/Tensor.h>
#include <c10/core/SymIntArrayRef.h>
#include <c10/util/OptionalArrayRef.h>

#include <optional>
#include <string_view>
#include <tuple>

#include "../registry.h"

namespace pylayers {

PYLAYERS_API at::Tensor rms_norm(const at::Tensor& input, c10::SymIntArrayRef normalized_shape,
                                 const std::optional<at::Tensor>& weight = {}, std::optional<double> eps = {}, double offset = 0);
PYLAYERS_API at::Tensor layer_norm(const at::Tensor& input, c10::SymIntArrayRef normalized_shape,
                                   const std::optional<at::Tensor>& weight = {}, const std::optional<at::Tensor>& bias = {},
                                   double eps = 1e-5);
PYLAYERS_API at::Tensor group_norm(const at::Tensor& input, int64_t num_groups, const std::optional<at::Tensor>& weight = {},
                                   const std::optional<at::Tensor>& bias = {}, double eps = 1e-5,
                                   std::optional<std::string_view> activation = {});
PYLAYERS_API std::tuple<at::Tensor, at::Tensor> add_rms_norm(const at::Tensor& input, const at::Tensor& residual,
                                                             c10::SymIntArrayRef normalized_shape,
                                                             const std::optional<at::Tensor>& weight = {},
                                                             std::optional<double> eps = {}, double offset = 0,
                                                             std::optional<at::ScalarType> residual_dtype = {});
PYLAYERS_API std::tuple<at::Tensor, at::Tensor> add_layer_norm(const at::Tensor& input, const at::Tensor& residual,
                                                               c10::SymIntArrayRef normalized_shape,
                                                               const std::optional<at::Tensor>& weight = {},
                                                               const std::optional<at::Tensor>& bias = {}, double eps = 1e-5,
                                                               std::optional<at::ScalarType> residual_dtype = {});
PYLAYERS_API std::tuple<at::Tensor, at::Tensor> rotary(const at::Tensor& q, const at::Tensor& k, const at::Tensor& cos,
                                                       const at::Tensor& sin, const std::optional<at::Tensor>& positions = {},
                                                       bool interleaved = false, bool heads_first = false);
PYLAYERS_API at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up);
PYLAYERS_API at::Tensor swiglu_packed(const at::Tensor& input);
PYLAYERS_API at::Tensor geglu(const at::Tensor& gate, const at::Tensor& up, std::string_view approximate = "none");
PYLAYERS_API at::Tensor geglu_packed(const at::Tensor& input, std::string_view approximate = "none");
PYLAYERS_API at::Tensor reglu(const at::Tensor& gate, const at::Tensor& up);
PYLAYERS_API at::Tensor reglu_packed(const at::Tensor& input);
PYLAYERS_API at::Tensor relu_squared(const at::Tensor& input);
PYLAYERS_API at::Tensor softmax(const at::Tensor& input, int64_t dim);
PYLAYERS_API at::Tensor log_softmax(const at::Tensor& input, int64_t dim);
PYLAYERS_API at::Tensor scaled_masked_softmax(const at::Tensor& input, const std::optional<at::Tensor>& mask = {}, double scale = 1,
                                              bool causal = false);
PYLAYERS_API at::Tensor cross_entropy(const at::Tensor& input, const at::Tensor& target, const std::optional<at::Tensor>& weight = {},
                                      std::string_view reduction = "mean", int64_t ignore_index = -100, double label_smoothing = 0,
                                      double z_loss = 0, std::optional<double> softcap = {},
                                      std::optional<at::ScalarType> dtype = {});
PYLAYERS_API at::Tensor linear_cross_entropy(const at::Tensor& input, const at::Tensor& linear_weight, const at::Tensor& target,
                                             const std::optional<at::Tensor>& linear_bias = {}, const std::optional<at::Tensor>& weight = {},
                                             std::string_view reduction = "mean", int64_t ignore_index = -100, double label_smoothing = 0,
                                             double z_loss = 0, std::optional<double> softcap = {}, std::optional<int64_t> chunk_rows = {},
                                             std::optional<at::ScalarType> dtype = {});
PYLAYERS_API at::Tensor mse_loss(const at::Tensor& input, const at::Tensor& target, std::string_view reduction = "mean",
                                 const std::optional<at::Tensor>& weight = {});
PYLAYERS_API at::Tensor binary_cross_entropy_with_logits(const at::Tensor& input, const at::Tensor& target,
                                                         const std::optional<at::Tensor>& weight = {}, std::string_view reduction = "mean",
                                                         const std::optional<at::Tensor>& pos_weight = {});
PYLAYERS_API at::Tensor kl_div(const at::Tensor& input, const at::Tensor& target, std::string_view reduction = "mean",
                               bool log_target = false);
PYLAYERS_API at::Tensor linear_kl_div(const at::Tensor& student_hidden, const at::Tensor& student_weight, const at::Tensor& teacher_hidden,
                                      const at::Tensor& teacher_weight, const std::optional<at::Tensor>& student_bias = {},
                                      const std::optional<at::Tensor>& teacher_bias = {}, double temperature = 1,
                                      std::string_view reduction = "batchmean", std::optional<int64_t> chunk_rows = {},
                                      std::optional<at::ScalarType> dtype = {});
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
PYLAYERS_API at::Tensor dropout_add(const at::Tensor& input, const at::Tensor& residual, double p = 0.5, bool training = true,
                                    std::optional<at::Generator> generator = {});

}  // namespace pylayers
