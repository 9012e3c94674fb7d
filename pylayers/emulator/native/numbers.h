// Numbers as a GPU has them: formats that C++ lacks, rounding, flushing, saturation.
//
// Everything here is free of branches and calls, so that loops over lanes become vector instructions.
#pragma once

#include <cfenv>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

namespace pylayers::emulator {

template <class To, class From>
To bits_as(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

template <class T>
inline constexpr bool is_half = std::is_same_v<T, Half> || std::is_same_v<T, BFloat16>;

template <class T>
using Wide = std::conditional_t<is_half<T>, float, T>;  // the type that computes for T

enum class Rounding { kNearest, kZero, kDown, kUp };

// Arithmetic of float and double between construction and destruction rounds so. The compiler moves no arithmetic across the
// calls, because what it works on are registers of the machine, in memory that the calls might change.
class RoundingScope {
 public:
  explicit RoundingScope(Rounding mode) {
    constexpr int modes[] = {FE_TONEAREST, FE_TOWARDZERO, FE_DOWNWARD, FE_UPWARD};
    std::fesetround(modes[int(mode)]);
  }
  ~RoundingScope() { std::fesetround(FE_TONEAREST); }
  RoundingScope(const RoundingScope&) = delete;
};

// The NaN that GPUs give. They keep those of double as they come.
inline float canonical(float x) { return x == x ? x : bits_as<float>(0x7fffffffu); }
inline double canonical(double x) { return x; }

template <class T>
using Bits = std::conditional_t<sizeof(T) == 8, uint64_t, std::conditional_t<sizeof(T) == 4, uint32_t, uint16_t>>;

template <class T>
inline constexpr Bits<T> sign_bit = Bits<T>(1) << (8 * sizeof(T) - 1);

template <class T>
T magnitude(T x) {
  return bits_as<T>(Bits<T>(bits_as<Bits<T>>(x) & ~sign_bit<T>));
}
template <class T>
T negated(T x) {
  return bits_as<T>(Bits<T>(bits_as<Bits<T>>(x) ^ sign_bit<T>));
}
template <class T>
T with_sign(T x, Bits<T> sign) {  // sign: bits of which only the highest counts
  return bits_as<T>(Bits<T>((bits_as<Bits<T>>(x) & ~sign_bit<T>) | (sign & sign_bit<T>)));
}

// Subnormal numbers become zeros of their sign.
template <class T>
T flushed(T x) {
  constexpr Bits<T> smallest = std::is_same_v<T, float> ? 0x00800000u : std::is_same_v<T, Half> ? 0x0400u : 0x0080u;
  if constexpr (std::is_same_v<T, double>) return x;
  const Bits<T> bits = bits_as<Bits<T>>(x), magnitude = bits & Bits<T>(~sign_bit<T>);
  return bits_as<T>(Bits<T>(magnitude < smallest ? bits & sign_bit<T> : bits));
}
template <bool flush, class T>
T flushed_if(T x) {
  if constexpr (flush) return flushed(x);
  return x;
}

template <class T>
T saturated(T x) {  // in [0, 1]; a NaN gives 0
  x = x > T(0) ? x : T(0);
  return x < T(1) ? x : T(1);
}
template <class T>
T relu(T x) {  // a NaN stays one
  return x <= T(0) ? T(0) : x;
}

// The smaller or larger one; -0 is smaller than 0. A NaN counts only where both are, or the instruction says so.
template <bool larger, bool propagates_nan, class T>
T extreme(T a, T b) {
  const Bits<T> x = bits_as<Bits<T>>(a), y = bits_as<Bits<T>>(b);
  const T ordered = (larger ? a > b : a < b) ? a : b;
  const T signs = a == b ? bits_as<T>(Bits<T>(larger ? x & y : x | y)) : ordered;
  const T other = a != a ? (propagates_nan ? a : b) : b != b ? (propagates_nan ? b : a) : signs;
  return canonical(other);
}

inline float to_wide(Half x) {
  const uint32_t magnitude = uint32_t(x.bits & 0x7fffu) << 13;
  const uint32_t finite = bits_as<uint32_t>(bits_as<float>(magnitude) * 0x1p112f);  // exact for subnormal numbers too
  const uint32_t value = magnitude >= 0x0f800000u ? magnitude | 0x7f800000u : finite;
  return bits_as<float>(value | uint32_t(x.bits & 0x8000u) << 16);
}
inline float to_wide(BFloat16 x) { return bits_as<float>(uint32_t(x.bits) << 16); }
inline float to_wide(float x) { return x; }
inline double to_wide(double x) { return x; }

template <class H>
H nearest(float x);

template <>
inline Half nearest<Half>(float x) {
  const uint32_t bits = bits_as<uint32_t>(x), u = bits & 0x7fffffffu;
  const uint32_t normal = (u - 0x38000000u + 0xfffu + (u >> 13 & 1u)) >> 13;  // exponents differ by 112
  const uint32_t subnormal = bits_as<uint32_t>(bits_as<float>(u) + 0.5f) - 0x3f000000u;  // the sum rounds at bit -24
  const uint32_t finite = u < 0x38800000u ? subnormal : normal;
  const uint32_t value = u >= 0x47800000u ? 0x7c00u : finite;
  return {uint16_t(u > 0x7f800000u ? 0x7fffu : value | (bits >> 16 & 0x8000u))};
}
template <>
inline BFloat16 nearest<BFloat16>(float x) {
  const uint32_t bits = bits_as<uint32_t>(x);
  const uint32_t value = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  return {uint16_t((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fffu : value)};
}

// The nearest number, and one step from it where it lies on the wrong side.
template <class H, Rounding mode>
H rounded(float x) {
  const H near = nearest<H>(x);
  if constexpr (mode == Rounding::kNearest) return near;
  const float value = to_wide(near);
  const bool wrong = mode == Rounding::kZero   ? magnitude(value) > magnitude(x)
                     : mode == Rounding::kDown ? value > x
                                               : value < x;
  const bool grows = mode != Rounding::kZero && ((near.bits & 0x8000) != 0) == (mode == Rounding::kDown);
  return {uint16_t(wrong ? near.bits + (grows ? 1 : -1) : near.bits)};
}

// Rounding to odd: where the result is inexact its last bit is set. A later rounding to a narrower format then gives what one
// rounding of the exact value would give.
inline float to_odd(double x) {
  const float near = float(x);
  const uint32_t bits = bits_as<uint32_t>(near);
  const double back = near;
  const bool moves = (back < x || back > x) && !(bits & 1u);
  const uint32_t step = magnitude(back) < magnitude(x) ? 1u : ~0u;
  return bits_as<float>(moves ? bits + step : bits);
}
inline double sum_to_odd(double a, double b) {
  const double sum = a + b, part = sum - a;
  const double error = (a - (sum - part)) + (b - part);
  const uint64_t bits = bits_as<uint64_t>(sum);
  const bool moves = (error < 0 || error > 0) && !(bits & 1u);
  const uint64_t step = (error > 0) == (sum > 0) ? 1u : ~uint64_t(0);
  return bits_as<double>(moves ? bits + step : bits);
}

// From what computed to T, rounded once.
template <class T, Rounding mode = Rounding::kNearest>
T narrowed(float x) {
  if constexpr (is_half<T>) return rounded<T, mode>(x);
  else return T(x);
}
template <class T, Rounding mode = Rounding::kNearest>
T narrowed(double x) {
  if constexpr (is_half<T>) return rounded<T, mode>(to_odd(x));
  else return T(x);
}

// As an integer, which x is already, or the nearest one that there is. A NaN becomes `nan`.
template <class Integer, class Float>
Integer to_integer(Float x, Integer nan) {
  using limits = std::numeric_limits<Integer>;
  constexpr Float lowest = Float(limits::min()), above = Float(limits::max() / 2 + 1) * 2;
  const Integer inside = Integer(x >= lowest && x < above ? x : Float(0));
  const Integer clamped = x < lowest ? limits::min() : x >= above ? limits::max() : inside;
  return x == x ? clamped : nan;
}

}  // namespace pylayers::emulator
