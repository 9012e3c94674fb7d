// Families of instructions from one function: rounding modes, flushed subnormal numbers, saturation.
#pragma once

#include <string>

#include "../numbers.h"
#include "../table.h"

namespace pylayers::emulator {

// Writes what was computed for all lanes to those that are active.
template <class T>
void assign(T* result, const T* computed, Mask active) {
  if (active == ~Mask(0)) {
    std::memcpy(result, computed, kLanes * sizeof(T));
  } else {
    for_active(active, [&](int lane) { std::memcpy(result + lane, computed + lane, sizeof(T)); });
  }
}

// `Function` on flushed arguments, its result flushed and saturated.
template <class Function, bool flush, bool saturates>
struct Modified : Function {
  explicit Modified(const Function& function) : Function(function) {}

  template <class T, class... More>
  T operator()(T first, More... more) const {
    T result = flushed_if<flush>(Function::operator()(flushed_if<flush>(first), flushed_if<flush>(more)...));
    if constexpr (saturates) result = saturated(result);
    return canonical(result);
  }
};

template <bool flush, bool saturates, class Function>
Modified<Function, flush, saturates> modified(const Function& function) {
  return Modified<Function, flush, saturates>(function);
}

template <Rounding mode, Handler handler>
void with_rounding(Warp& warp, const Instruction& instruction, Mask active) {
  const RoundingScope scope(mode);
  handler(warp, instruction, active);
}

// name{,.rn,.rz,.rm,.rp} and then `rest`.
template <class Signature, int per_lane = 1, class Function>
void define_rounded(const std::string& name, const std::string& rest, const Function&, int flops) {
  using Family = Lanes<Signature, per_lane>;
  constexpr Handler handler = Family::template handler<Function>;
  Family::define(name + "{,.rn}" + rest, handler, flops);
  Family::define(name + ".rz" + rest, &with_rounding<Rounding::kZero, handler>, flops);
  Family::define(name + ".rm" + rest, &with_rounding<Rounding::kDown, handler>, flops);
  Family::define(name + ".rp" + rest, &with_rounding<Rounding::kUp, handler>, flops);
}

}  // namespace pylayers::emulator
