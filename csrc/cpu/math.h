// exp and the activations on vectors. float: a few units in the last place; double: the C library, lane by lane, but exp.
#pragma once

#include <cmath>
#include <limits>

#include "../activation.h"
#include "vector.h"

namespace pylayers::cpu::PYLAYERS_ISA {

using Doubles = Vector<double>;

template <class V>
using element_t = std::remove_reference_t<decltype(V{}[0])>;

// The polynomial with these coefficients, highest power first.
template <class V, class... Coefficients>
inline V polynomial(V x, element_t<V> first, Coefficients... others) {
  V p = splat(first);
  ((p = p * x + element_t<V>(others)), ...);
  return p;
}

template <class V>
inline V clamp(V x, V low, V high) {  // a nan stays one: where one operand is a nan, the instructions return the second
#if PYLAYERS_VECTOR_BYTES == 32 && !defined(PYLAYERS_PORTABLE)
  if constexpr (std::is_same_v<V, Floats>)
    return bit_cast<V>(_mm256_min_ps(bit_cast<__m256>(high), _mm256_max_ps(bit_cast<__m256>(low), bit_cast<__m256>(x))));
#elif PYLAYERS_VECTOR_BYTES == 64 && !defined(PYLAYERS_PORTABLE)
  if constexpr (std::is_same_v<V, Floats>)
    return bit_cast<V>(_mm512_min_ps(bit_cast<__m512>(high), _mm512_max_ps(bit_cast<__m512>(low), bit_cast<__m512>(x))));
#endif
  x = x < low ? low : x;
  return x > high ? high : x;
}

// eˣ = 2ᵏ · eʳ with |r| ≤ ½ ln 2, eʳ by a polynomial within 0.05 units in the last place. Saturates at the ends of the normal range.
inline Floats exp(Floats x) {
  x = clamp(x, splat(-87.3f), splat(88.7f));
  const Floats shifted = x * 1.44269504f + 0x1.8p23f;  // adding 1.5·2²³ rounds to an integer, kept in the low bits
  const Floats k = shifted - 0x1.8p23f;
  const Floats r = (x - k * 0.693359375f) + k * 2.12194440e-4f;
  const Floats s = r * r;  // in pairs: the chain of a plain polynomial is what takes the time
  const Floats high = 1.381461043e-03f * s + (r * 8.368711133e-03f + 4.166838749e-02f);
  const Floats p = (high * s + (r * 1.666652068e-01f + 4.999999345e-01f)) * s + (r + 1);
  return bit_cast<Floats>(bit_cast<Words>(p) + (bit_cast<Words>(shifted) << 23));
}

inline Doubles exp(Doubles x) {
  using Longs = Vector<uint64_t>;
  x = clamp(x, splat(-708.), splat(709.));
  const Doubles shifted = x * 1.4426950408889634 + 0x1.8p52;
  const Doubles k = shifted - 0x1.8p52;
  const Doubles r = (x - k * 6.93147180369123816490e-01) - k * 1.90821492927058770002e-10;
  const Doubles p = polynomial(r, 1. / 6227020800., 1. / 479001600., 1. / 39916800., 1. / 3628800., 1. / 362880., 1. / 40320.,
                               1. / 5040., 1. / 720., 1. / 120., 1. / 24., 1. / 6., .5, 1., 1.);
  return bit_cast<Doubles>(bit_cast<Longs>(p) + (bit_cast<Longs>(shifted) << 52));
}

// eˣ, and 0 where that is all but 0: what is masked must not count.
template <class V>
inline V exp_or_zero(V x) {
  constexpr element_t<V> least = sizeof(element_t<V>) == 8 ? -708. : -87.3;
  return x < least ? V{} : exp(x);
}

template <class V>
inline V sigmoid(V x) {
  return 1 / (1 + exp(-x));
}

inline Floats magnitude(Floats x) { return bit_cast<Floats>(bit_cast<Words>(x) & 0x7fffffff); }
inline Doubles magnitude(Doubles x) { return bit_cast<Doubles>(bit_cast<Vector<uint64_t>>(x) & 0x7fffffffffffffff); }
inline Floats with_sign_of(Floats x, Floats sign) { return bit_cast<Floats>(bit_cast<Words>(x) | (bit_cast<Words>(sign) & 0x80000000)); }

template <class Function>
inline Doubles by_lane(Doubles x, Function function) {
  for (int i = 0; i < kLanes<double>; ++i) x[i] = function(x[i]);
  return x;
}

// 2 artanh s = ln((1 + s) / (1 − s)) for |s| ≤ ⅓, within 1e-10 of it.
inline Floats log_of_ratio(Floats s) {
  return s * polynomial(s * s, 2.44093992e-01f, 2.13942687e-01f, 2.86206233e-01f, 3.99986948e-01f, 6.66666793e-01f, 2.f);
}
// ln(1 + u) for 0 ≤ u ≤ 1.
inline Floats log_of_one_and(Floats u) { return log_of_ratio(u / (2 + u)); }
inline Doubles log_of_one_and(Doubles u) {
  return by_lane(u, [](double v) { return std::log1p(v); });
}

// ln x = k ln 2 + ln m with √½ ≤ m < √2; −∞ for 0, a nan below.
inline Floats log(Floats x) {
  using Ints = Vector<int32_t>;
  constexpr float infinity = std::numeric_limits<float>::infinity();
  const auto subnormal = x < 0x1p-126f;
  const Floats scaled = subnormal ? x * 0x1p23f : x;
  const Ints k = (bit_cast<Ints>(scaled) - 0x3f3504f3) >> 23;
  const Floats m = bit_cast<Floats>(bit_cast<Ints>(scaled) - (k << 23));
  const Floats twos = __builtin_convertvector(k, Floats) - (subnormal ? splat(23.f) : Floats{});
  const Floats y = twos * 0.693359375f + (log_of_ratio((m - 1) / (m + 1)) - twos * 2.12194440e-4f);
  const Floats at_ends = x == 0 ? splat(-infinity) : x > 0 ? x : splat(std::numeric_limits<float>::quiet_NaN());
  return x > 0 && x < infinity ? y : at_ends;
}
inline Doubles log(Doubles x) {
  return by_lane(x, [](double v) { return std::log(v); });
}

inline Floats tanh(Floats x) {
  const Floats s = x * x;
  const Floats p = polynomial(s, 1.570881087e-03f, -7.380305701e-03f, 2.127923322e-02f, -5.384305552e-02f, 1.333204488e-01f,
                              -3.333328308e-01f, 9.999999968e-01f);
  const Floats far = with_sign_of(1 - 2 / (1 + exp(2 * magnitude(x))), x);
  return s < 0.64f ? x * p : far;
}
inline Doubles tanh(Doubles x) {
  return by_lane(x, [](double v) { return std::tanh(v); });
}

// Of the normal distribution: Φ(x), and e^{-x²/2}, which takes part in both Φ and its derivative.
template <class V>
struct Normal {
  V cdf, bell;
};

// Φ(-z) = ½ erfc(z/√2), whose quotient by e^{-z²/2} is a polynomial in 1 / (1 + z/√8).
inline Normal<Floats> normal(Floats x) {
  const Floats bell = exp(x * x * -.5f), t = 1 / (1 + 0.353553391f * magnitude(x));
  const Floats scaled = polynomial(t, -2.944532445e-02f, 1.418506684e-01f, -2.426911878e-01f, 1.379882993e-01f, -1.258829377e-02f,
                                   1.010346807e-01f, 1.216305643e-01f, 1.411767337e-01f, 1.410438387e-01f);
  const Floats tail = scaled * t * bell;
  return {x < 0 ? tail : 1 - tail, bell};
}
inline Normal<Doubles> normal(Doubles x) {
  const auto cdf = [](double v) { return .5 * std::erfc(-v * 0.70710678118654752440); };
  return {by_lane(x, cdf), exp(x * x * -.5)};
}

template <class V>
inline V gelu_tanh_argument(V x) {  // ½ (1 + tanh(√(2/π) (x + 0.044715 x³))) is its sigmoid
  return x * (static_cast<element_t<V>>(1.5957691216057308) + static_cast<element_t<V>>(0.0713548162726009) * x * x);
}

// body(std::integral_constant<Activation, …>()) for the one of these that is asked for; for the last one else.
template <Activation first, Activation... rest, class Body>
inline void with_activation(int64_t activation, const Body& body) {
  if constexpr (sizeof...(rest) > 0)
    if (activation != static_cast<int64_t>(first)) return with_activation<rest...>(activation, body);
  body(std::integral_constant<Activation, first>());
}

template <Activation activation, class V>
inline V activate(V x) {
  if constexpr (activation == Activation::relu) return x < 0 ? V{} : x;
  if constexpr (activation == Activation::gelu) return x * normal(x).cdf;
  if constexpr (activation == Activation::gelu_tanh) return x * sigmoid(gelu_tanh_argument(x));
  if constexpr (activation == Activation::silu) return x * sigmoid(x);
  if constexpr (activation == Activation::tanh) return tanh(x);
  if constexpr (activation == Activation::sigmoid) return sigmoid(x);
  return x;
}

// The derivative, of the output y where derivative_from_output holds, else of the argument x.
template <Activation activation, class V>
inline V derivative(V x) {
  using acc_t = element_t<V>;
  const V y = x;
  if constexpr (activation == Activation::relu) return y > 0 ? splat(acc_t(1)) : V{};
  if constexpr (activation == Activation::tanh) return 1 - y * y;
  if constexpr (activation == Activation::sigmoid) return y * (1 - y);
  if constexpr (activation == Activation::gelu) {
    const auto [cdf, bell] = normal(x);
    return cdf + x * bell * acc_t(0.3989422804014327);
  }
  if constexpr (activation == Activation::gelu_tanh) {
    const V e = exp(-gelu_tanh_argument(x)), s = 1 / (1 + e);
    const V rest = e * s;  // 1 − s without its cancellation
    return s + s * rest * x * (acc_t(1.5957691216057308) + acc_t(3 * 0.0713548162726009) * x * x);
  }
  if constexpr (activation == Activation::silu) {
    const V s = sigmoid(x);
    return s * (1 + x * (1 - s));
  }
  return splat(acc_t(1));
}

}  // namespace pylayers::cpu::PYLAYERS_ISA
