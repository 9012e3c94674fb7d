// atom and red: one lane after the other.
#include "../memory.h"
#include "../numbers.h"
#include "../table.h"

namespace pylayers::emulator {
namespace {

// Operands of atom: old value, address, operand[, second]; of red: address, operand. width: of vectors of floats, in red.
template <class T, class Function, bool returns, int width>
void atomic(Warp& warp, const Instruction& instruction, Mask active) {
  const Operand* operands = instruction.operands + returns;
  const Places at = places(warp, instruction, active, operands[0], {space_of(instruction), sizeof(T) * width, true, true});
  ++warp.launch().counts.atomics;
  const bool two = instruction.count > returns + 1 + width;
  for_active(active, [&](int lane) {
    for (int i = 0; i < width; ++i) {
      T old;
      std::memcpy(&old, at.lane[lane] + i * sizeof(T), sizeof(T));
      const T first = value_in<T>(warp, operands[1 + i], lane);
      const T next = Function()(old, first, two ? value_in<T>(warp, operands[2], lane) : first);
      std::memcpy(at.lane[lane] + i * sizeof(T), &next, sizeof(T));
      if (returns) set_value<T>(warp, instruction.operands[0], lane, old);
    }
  });
}

template <class T, class Function>
void define_everywhere(const std::string& suffix, int values = 1) {
  for (const auto& [place, space] : kSpaces) {
    if (space == Space::kLocal || space == Space::kParameter || place == std::string(".const")) continue;
    define("atom" + std::string(place) + suffix, {atomic<T, Function, true, 1>, {}, 0, int(space), values + 2});
    define("red" + std::string(place) + suffix, {atomic<T, Function, false, 1>, {}, 0, int(space), values + 1});
  }
}

struct Add { template <class T> T operator()(T old, T x, T) const { return static_cast<T>(old + x); } };
struct Min { template <class T> T operator()(T old, T x, T) const { return std::min(old, x); } };
struct Max { template <class T> T operator()(T old, T x, T) const { return std::max(old, x); } };
struct And { template <class T> T operator()(T old, T x, T) const { return old & x; } };
struct Or { template <class T> T operator()(T old, T x, T) const { return old | x; } };
struct Xor { template <class T> T operator()(T old, T x, T) const { return old ^ x; } };
struct Exchange { template <class T> T operator()(T, T x, T) const { return x; } };
struct Compare { template <class T> T operator()(T old, T x, T y) const { return old == x ? y : old; } };
struct Increment { template <class T> T operator()(T old, T x, T) const { return old >= x ? T(0) : T(old + 1); } };
struct Decrement { template <class T> T operator()(T old, T x, T) const { return old == 0 || old > x ? x : T(old - 1); } };

template <class H>
uint16_t add(uint16_t a, uint16_t b) {
  return nearest<H>(to_wide(H{a}) + to_wide(H{b})).bits;
}

template <class H>
struct AddHalves {
  uint16_t operator()(uint16_t old, uint16_t x, uint16_t) const { return add<H>(old, x); }
  uint32_t operator()(uint32_t old, uint32_t x, uint32_t) const {
    return uint32_t(add<H>(static_cast<uint16_t>(old >> 16), static_cast<uint16_t>(x >> 16))) << 16 |
           add<H>(static_cast<uint16_t>(old), static_cast<uint16_t>(x));
  }
};

}  // namespace

void define_atomics() {
  define_everywhere<uint32_t, Add>(".add.{u32,s32}");
  define_everywhere<uint64_t, Add>(".add.{u64,s64}");
  define_everywhere<float, Add>(".add.{f32,ftz.f32}");
  define_everywhere<double, Add>(".add.f64");
  define_everywhere<uint32_t, Min>(".min.u32");
  define_everywhere<int32_t, Min>(".min.s32");
  define_everywhere<uint64_t, Min>(".min.u64");
  define_everywhere<int64_t, Min>(".min.s64");
  define_everywhere<uint32_t, Max>(".max.u32");
  define_everywhere<int32_t, Max>(".max.s32");
  define_everywhere<uint64_t, Max>(".max.u64");
  define_everywhere<int64_t, Max>(".max.s64");
  define_everywhere<uint32_t, And>(".and.b32");
  define_everywhere<uint64_t, And>(".and.b64");
  define_everywhere<uint32_t, Or>(".or.b32");
  define_everywhere<uint64_t, Or>(".or.b64");
  define_everywhere<uint32_t, Xor>(".xor.b32");
  define_everywhere<uint64_t, Xor>(".xor.b64");
  define_everywhere<uint32_t, Exchange>(".exch.b32");
  define_everywhere<uint64_t, Exchange>(".exch.b64");
  define_everywhere<uint16_t, Compare>(".cas.b16", 2);
  define_everywhere<uint32_t, Compare>(".cas.b32", 2);
  define_everywhere<uint64_t, Compare>(".cas.b64", 2);
  define_everywhere<uint32_t, Increment>(".inc.u32");
  define_everywhere<uint32_t, Decrement>(".dec.u32");
  define_everywhere<uint16_t, AddHalves<Half>>(".add.noftz.f16");
  define_everywhere<uint16_t, AddHalves<BFloat16>>(".add.noftz.bf16");
  define_everywhere<uint32_t, AddHalves<Half>>(".add.noftz.f16x2");
  define_everywhere<uint32_t, AddHalves<BFloat16>>(".add.noftz.bf16x2");
  define("red.global.add.v2.f32", {atomic<float, Add, false, 2>, {}, 0, int(Space::kGlobal), 3});
  define("red.global.add.v4.f32", {atomic<float, Add, false, 4>, {}, 0, int(Space::kGlobal), 5});
}

}  // namespace pylayers::emulator
