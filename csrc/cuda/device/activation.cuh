// Activations and their derivatives, in the arithmetic that the stored dtype deserves: 16-bit numbers take the
// hardware's exponential and reciprocal (relative error about 1e-6, far below their rounding), others the exact ones.
#pragma once

#include "../../activation.h"
#include "vector.cuh"

namespace pylayers::cuda {

template <class scalar_t>
inline constexpr bool is_16_bit = sizeof(scalar_t) == 2;

// derivative_from_output as a constant: device code cannot call the function.
template <Activation activation>
inline constexpr bool saves_output = derivative_from_output(activation);

__device__ inline float fast_exp(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x * 1.44269504f));
  return y;
}
__device__ inline float fast_reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

template <class scalar_t>
__device__ acc_of<scalar_t> sigmoid(acc_of<scalar_t> x) {
  if constexpr (is_16_bit<scalar_t>) return fast_reciprocal(1 + fast_exp(-x));
  else return 1 / (1 + exp(-x));
}

// 1 − σ(x), given σ(x): where a product may magnify the cancellation, computed without it.
template <class scalar_t>
__device__ acc_of<scalar_t> one_minus_sigmoid(acc_of<scalar_t> x, acc_of<scalar_t> sigmoid_of_x) {
  return is_16_bit<scalar_t> ? 1 - sigmoid_of_x : sigmoid<scalar_t>(-x);
}

// The normal distribution: cdf = ½ (1 + erf(x / √2)), pdf = exp(−x² / 2) / √(2π). In 16 bits the tail is that of
// Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26 (error of the cdf at most 7.5e-8).
template <class scalar_t, class acc_t = acc_of<scalar_t>>
__device__ void normal(acc_t x, acc_t& cdf, acc_t& pdf) {
  constexpr acc_t root_half = acc_t(0.70710678118654752), norm = acc_t(0.39894228040143268);
  if constexpr (is_16_bit<scalar_t>) {
    const float bell = fast_exp(-.5f * x * x);
    const float t = fast_reciprocal(1 + .3275911f * root_half * fabsf(x));
    const float tail = .5f * bell * t *
        (.254829592f + t * (-.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
    cdf = x > 0 ? 1 - tail : tail;
    pdf = norm * bell;
  } else {
    cdf = acc_t(.5) * (1 + erf(x * root_half));
    pdf = norm * exp(acc_t(-.5) * x * x);
  }
}

// ½ (1 + tanh(u)) = σ(2u) for u = √(2/π) (x + 0.044715 x³), and its derivative by x
template <class scalar_t, class acc_t = acc_of<scalar_t>>
__device__ void tanh_gate(acc_t x, acc_t& gate, acc_t& slope) {
  constexpr acc_t scale = acc_t(1.5957691216057308), cubic = acc_t(.044715);
  const acc_t twice_u = scale * x * (1 + cubic * x * x);
  gate = sigmoid<scalar_t>(twice_u);
  slope = gate * one_minus_sigmoid<scalar_t>(twice_u, gate) * scale * (1 + 3 * cubic * x * x);
}

template <class scalar_t, Activation activation>
__device__ acc_of<scalar_t> activate(acc_of<scalar_t> x) {
  acc_of<scalar_t> gate, unused;
  if constexpr (activation == Activation::relu) return x < 0 ? 0 : x;
  else if constexpr (activation == Activation::gelu) return normal<scalar_t>(x, gate, unused), x * gate;
  else if constexpr (activation == Activation::gelu_tanh) return tanh_gate<scalar_t>(x, gate, unused), x * gate;
  else if constexpr (activation == Activation::silu) return x * sigmoid<scalar_t>(x);
  else if constexpr (activation == Activation::tanh) return tanh(x);
  else if constexpr (activation == Activation::sigmoid) return sigmoid<scalar_t>(x);
  else return x;
}

// The derivative, from the output where it is a function of it, else from what came before the activation.
template <class scalar_t, Activation activation>
__device__ acc_of<scalar_t> derivative(acc_of<scalar_t> saved) {
  acc_of<scalar_t> gate, slope;
  if constexpr (activation == Activation::relu) return saved <= 0 ? 0 : 1;
  else if constexpr (activation == Activation::gelu) return normal<scalar_t>(saved, gate, slope), gate + saved * slope;
  else if constexpr (activation == Activation::gelu_tanh)
    return tanh_gate<scalar_t>(saved, gate, slope), gate + saved * slope;
  else if constexpr (activation == Activation::silu)
    return gate = sigmoid<scalar_t>(saved), gate * (1 + saved * one_minus_sigmoid<scalar_t>(saved, gate));
  else if constexpr (activation == Activation::tanh) return 1 - saved * saved;
  else if constexpr (activation == Activation::sigmoid) return saved * (1 - saved);
  else return 1;
}

}  // namespace pylayers::cuda
