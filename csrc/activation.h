#pragma once

#include <cstdint>

namespace pylayers {

// The numbers are part of the kernel contract: they reach kernels, Python ones too, as a plain integer.
enum class Activation : int64_t { none, relu, gelu, gelu_tanh, silu, tanh, sigmoid };

// True where the derivative is a function of the output; the others need what came before the activation.
constexpr bool derivative_from_output(Activation activation) {
  return activation == Activation::relu || activation == Activation::tanh || activation == Activation::sigmoid;
}

}  // namespace pylayers
