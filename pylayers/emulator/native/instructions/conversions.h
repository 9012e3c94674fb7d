// What conversions have in common: registers may be wider than the type. The low part of the source counts, and the result is
// extended.
//
// There are hundreds of conversions. Each is three loops over the lanes, shared with others: read and widen, compute, write.
#pragma once

#include "families.h"

namespace pylayers::emulator {

template <class... Types>
struct TypeList {};
using Integers = TypeList<int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t>;
using Floats = TypeList<Half, BFloat16, float, double>;

template <class... Types, class Body>
void for_each_type(TypeList<Types...>, const Body& body) {
  (body(Types{}), ...);
}

template <class Body>
void for_each_mode(const Body& body) {
  body(std::integral_constant<Rounding, Rounding::kNearest>(), std::string(".rn"));
  body(std::integral_constant<Rounding, Rounding::kZero>(), std::string(".rz"));
  body(std::integral_constant<Rounding, Rounding::kDown>(), std::string(".rm"));
  body(std::integral_constant<Rounding, Rounding::kUp>(), std::string(".rp"));
}

template <class T>
__attribute__((noinline)) std::string name_of() {
  if (std::is_same_v<T, Half>) return "f16";
  if (std::is_same_v<T, BFloat16>) return "bf16";
  return (std::is_floating_point_v<T> ? "f" : std::is_signed_v<T> ? "s" : "u") + std::to_string(8 * sizeof(T));
}

// cvt<modifiers>.<to>.<from>
__attribute__((noinline)) inline void define_named(const std::string& modifiers, const std::string& to, const std::string& from,
                                                   Handler handler) {
  define("cvt" + modifiers + "." + to + "." + from, {handler, {kAnySize, kAnySize}});
}

template <class T>
using Raw = std::conditional_t<sizeof(T) == 1, uint8_t, Bits<T>>;

template <class T>
using WidenedInteger = std::conditional_t<sizeof(T) == 8, T, std::conditional_t<std::is_signed_v<T>, int32_t, uint32_t>>;

template <class T>  // a type of which there are few and that holds any T
using Widened = std::conditional_t<std::is_integral_v<T>, WidenedInteger<T>, Wide<T>>;

template <class T>
Widened<T> widened(T x) {
  if constexpr (std::is_integral_v<T>) return x;
  else return to_wide(x);
}

template <class Stored, class T>
void load_as(Widened<T>* to, const Warp& warp, const Operand& operand) {
  const Stored* from = values<Stored>(warp, operand);
  for (int lane = 0; lane < kLanes; ++lane) to[lane] = widened(bits_as<T>(Raw<T>(from[lane])));
}
template <class T>
__attribute__((noinline)) void load(Widened<T>* to, const Warp& warp, const Operand& operand) {
  switch (operand.size) {
    case 1: return load_as<uint8_t, T>(to, warp, operand);
    case 2: return load_as<uint16_t, T>(to, warp, operand);
    case 4: return load_as<uint32_t, T>(to, warp, operand);
    default: return load_as<uint64_t, T>(to, warp, operand);
  }
}

template <class Stored, class T>
void store_as(Warp& warp, const Operand& operand, const T* from, Mask active) {
  using Number = std::conditional_t<std::is_integral_v<T>, T, Raw<T>>;  // that is extended by its sign, or by zeros
  Stored extended[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) extended[lane] = Stored(bits_as<Number>(from[lane]));
  assign(values<Stored>(warp, operand), extended, active);
}
template <class T>
__attribute__((noinline)) void store(Warp& warp, const Operand& operand, const T* from, Mask active) {
  switch (operand.size) {
    case 0: return;  // the result is not wanted
    case 1: return store_as<uint8_t>(warp, operand, from, active);
    case 2: return store_as<uint16_t>(warp, operand, from, active);
    case 4: return store_as<uint32_t>(warp, operand, from, active);
    default: return store_as<uint64_t>(warp, operand, from, active);
  }
}

template <class Function, class To, class From>
__attribute__((noinline)) void compute(To* to, const From* from) {
  for (int lane = 0; lane < kLanes; ++lane) to[lane] = stateless<Function>()(from[lane]);
}

template <class To, class From, class Function>
void convert(Warp& warp, const Instruction& instruction, Mask active) {
  Widened<From> from[kLanes];
  To to[kLanes];
  load<From>(from, warp, instruction.operands[1]);
  compute<Function>(to, from);
  store(warp, instruction.operands[0], to, active);
}

// Function takes Widened<From>. In `mode` if arithmetic of C++ is to round so.
template <class To, class From, class Function, Rounding mode = Rounding::kNearest>
void define_conversion(const std::string& modifiers) {
  constexpr Handler plain = &convert<To, From, Function>;
  Handler handler = plain;
  if constexpr (mode != Rounding::kNearest) handler = &with_rounding<mode, plain>;
  define_named(modifiers, name_of<To>(), name_of<From>(), handler);
}

template <class T>
T in_mode(T x, Rounding mode) {  // to an integer
  return mode == Rounding::kNearest ? std::rint(x)
         : mode == Rounding::kZero  ? std::trunc(x)
         : mode == Rounding::kDown  ? std::floor(x)
                                    : std::ceil(x);
}

}  // namespace pylayers::emulator
