// Integer arithmetic and bitwise logic.
#include "families.h"

namespace pylayers::emulator {
namespace {

template <class T>
using Unsigned = std::make_unsigned_t<T>;

template <class T>  // where arithmetic of T wraps around: uint16_t would become a signed int
using Wrapping = std::conditional_t<sizeof(T) < 4, uint32_t, Unsigned<T>>;

template <class T>
using Doubled = std::conditional_t<sizeof(T) == 2, std::conditional_t<std::is_signed_v<T>, int32_t, uint32_t>,
                                   std::conditional_t<std::is_signed_v<T>, int64_t, uint64_t>>;

template <class T>
T product_low(T a, T b) {
  return T(Wrapping<T>(a) * Wrapping<T>(b));
}
template <class T>
T product_high(T a, T b) {
  using Longest = std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>;
  using Product = std::conditional_t<sizeof(T) == 8, Longest, Doubled<T>>;
  return T(Product(a) * Product(b) >> (8 * sizeof(T)));
}
template <class T>
T sum(T a, T b) {
  return T(Wrapping<T>(a) + Wrapping<T>(b));
}
template <class T>
T difference(T a, T b) {
  return T(Wrapping<T>(a) - Wrapping<T>(b));
}
template <class T>
T quotient(T a, T b) {  // what a GPU leaves open: of zero all bits are set
  if (b == 0) return T(~T(0));
  if (std::is_signed_v<T> && b == T(-1)) return difference(T(0), a);
  return T(a / b);
}
template <class T>
T remainder(T a, T b) {
  if (b == 0) return a;
  if (std::is_signed_v<T> && b == T(-1)) return 0;
  return T(a % b);
}

int32_t saturated_sum(int64_t a, int64_t b) {
  return int32_t(std::clamp<int64_t>(a + b, std::numeric_limits<int32_t>::min(), std::numeric_limits<int32_t>::max()));
}

template <class T>
void define_arithmetic(const std::string& type) {
  define_lanes<T(T, T)>("add." + type, [](T a, T b) { return sum(a, b); });
  define_lanes<T(T, T)>("sub." + type, [](T a, T b) { return difference(a, b); });
  define_lanes<T(T, T)>("mul.lo." + type, [](T a, T b) { return product_low(a, b); });
  define_lanes<T(T, T)>("mul.hi." + type, [](T a, T b) { return product_high(a, b); });
  define_lanes<T(T, T, T)>("mad.lo." + type, [](T a, T b, T c) { return sum(product_low(a, b), c); });
  define_lanes<T(T, T, T)>("mad.hi." + type, [](T a, T b, T c) { return sum(product_high(a, b), c); });
  define_lanes<T(T, T)>("div." + type, [](T a, T b) { return quotient(a, b); });
  define_lanes<T(T, T)>("rem." + type, [](T a, T b) { return remainder(a, b); });
  define_lanes<T(T, T)>("min." + type, [](T a, T b) { return std::min(a, b); });
  define_lanes<T(T, T)>("max." + type, [](T a, T b) { return std::max(a, b); });
  define_lanes<T(T, T, T)>("sad." + type, [](T a, T b, T c) { return sum(c, a < b ? difference(b, a) : difference(a, b)); });
  if constexpr (std::is_signed_v<T>) {
    define_lanes<T(T)>("neg." + type, [](T a) { return difference(T(0), a); });
    define_lanes<T(T)>("abs." + type, [](T a) { return a < 0 ? difference(T(0), a) : a; });
  }
  if constexpr (sizeof(T) < 8) {
    using Wide = Doubled<T>;
    define_lanes<Wide(T, T)>("mul.wide." + type, [](T a, T b) { return Wide(Wide(a) * Wide(b)); });
    define_lanes<Wide(T, T, Wide)>("mad.wide." + type, [](T a, T b, Wide c) { return sum(Wide(Wide(a) * Wide(b)), c); });
  }
}

template <class T>  // int32_t or uint32_t, of which 24 bits count
T low_24_bits(T a) {
  return T(T(uint32_t(a) << 8) >> 8);
}

template <class T>
void define_24_bit_products(const std::string& type) {
  using Wide = Doubled<T>;
  static constexpr auto low = [](T a, T b) { return T(Wide(low_24_bits(a)) * Wide(low_24_bits(b))); };
  static constexpr auto high = [](T a, T b) { return T(Wide(low_24_bits(a)) * Wide(low_24_bits(b)) >> 16); };
  define_lanes<T(T, T)>("mul24.lo." + type, [](T a, T b) { return low(a, b); });
  define_lanes<T(T, T)>("mul24.hi." + type, [](T a, T b) { return high(a, b); });
  define_lanes<T(T, T, T)>("mad24.lo." + type, [](T a, T b, T c) { return sum(low(a, b), c); });
  define_lanes<T(T, T, T)>("mad24.hi." + type, [](T a, T b, T c) { return sum(high(a, b), c); });
}

void define_saturating() {
  using T = int32_t;
  define_lanes<T(T, T)>("add.sat.s32", [](T a, T b) { return saturated_sum(a, b); });
  define_lanes<T(T, T)>("sub.sat.s32", [](T a, T b) { return saturated_sum(a, -int64_t(b)); });
  define_lanes<T(T, T, T)>("mad.hi.sat.s32", [](T a, T b, T c) { return saturated_sum(product_high(a, b), c); });
  define_lanes<T(T, T, T)>("mad24.hi.sat.s32", [](T a, T b, T c) {
    return saturated_sum(int32_t(int64_t(low_24_bits(a)) * low_24_bits(b) >> 16), c);
  });
  define_lanes<T(T, T)>("min.relu.s32", [](T a, T b) { return std::max(std::min(a, b), 0); });
  define_lanes<T(T, T)>("max.relu.s32", [](T a, T b) { return std::max(std::max(a, b), 0); });
}

template <class T>  // two in a register
void define_pairs(const std::string& type) {
  define_lanes<T(T, T), 2>("add." + type, [](T a, T b) { return sum(a, b); });
  define_lanes<T(T, T), 2>("min." + type, [](T a, T b) { return std::min(a, b); });
  define_lanes<T(T, T), 2>("max." + type, [](T a, T b) { return std::max(a, b); });
}

template <class T>
void define_logic(const std::string& type) {
  define_lanes<T(T, T)>("and." + type, [](T a, T b) { return T(a & b); });
  define_lanes<T(T, T)>("or." + type, [](T a, T b) { return T(a | b); });
  define_lanes<T(T, T)>("xor." + type, [](T a, T b) { return T(a ^ b); });
  define_lanes<T(T)>("not." + type, [](T a) { return T(~a); });
  define_lanes<T(T)>("cnot." + type, [](T a) { return T(a == 0); });
}

// Shifts by the width or more leave nothing but copies of the sign.
template <class T>
void define_shifts(const std::string& left, const std::string& right) {
  constexpr uint32_t width = 8 * sizeof(T);
  using Signed = std::make_signed_t<T>;
  define_lanes<T(T, uint32_t)>("shl." + left, [](T a, uint32_t n) { return n < width ? T(a << (n % width)) : T(0); });
  define_lanes<T(T, uint32_t)>("shr." + right, [](T a, uint32_t n) { return n < width ? T(a >> (n % width)) : T(0); });
  define_lanes<Signed(Signed, uint32_t)>("shr.s" + std::to_string(width), [](Signed a, uint32_t n) {
    return Signed(a >> std::min(n, width - 1));
  });
}

template <class A, class B>  // four products of bytes, or two of half a and two bytes of b
void define_dot_products(const std::string& types) {
  using U = uint32_t;
  define_lanes<U(U, U, U)>("dp4a." + types, [](U a, U b, U c) {
    for (int i = 0; i < 4; ++i) c += U(int32_t(A(a >> (8 * i))) * int32_t(B(b >> (8 * i))));
    return c;
  });
  using A16 = std::conditional_t<std::is_signed_v<A>, int16_t, uint16_t>;
  define_lanes<U(U, U, U)>("dp2a.lo." + types, [](U a, U b, U c) {
    for (int i = 0; i < 2; ++i) c += U(int32_t(A16(a >> (16 * i))) * int32_t(B(b >> (8 * i))));
    return c;
  });
  define_lanes<U(U, U, U)>("dp2a.hi." + types, [](U a, U b, U c) {
    for (int i = 0; i < 2; ++i) c += U(int32_t(A16(a >> (16 * i))) * int32_t(B(b >> (8 * i + 16))));
    return c;
  });
}

}  // namespace

void define_integers() {
  define_arithmetic<int16_t>("s16");
  define_arithmetic<uint16_t>("u16");
  define_arithmetic<int32_t>("s32");
  define_arithmetic<uint32_t>("u32");
  define_arithmetic<int64_t>("s64");
  define_arithmetic<uint64_t>("u64");
  define_24_bit_products<int32_t>("s32");
  define_24_bit_products<uint32_t>("u32");
  define_saturating();
  define_pairs<int16_t>("s16x2");
  define_pairs<uint16_t>("u16x2");
  define_logic<uint16_t>("b16");
  define_logic<uint32_t>("b32");
  define_logic<uint64_t>("b64");
  define_shifts<uint16_t>("b16", "{b16,u16}");
  define_shifts<uint32_t>("b32", "{b32,u32}");
  define_shifts<uint64_t>("b64", "{b64,u64}");
  define_dot_products<int8_t, int8_t>("s32.s32");
  define_dot_products<int8_t, uint8_t>("s32.u32");
  define_dot_products<uint8_t, int8_t>("u32.s32");
  define_dot_products<uint8_t, uint8_t>("u32.u32");
}

}  // namespace pylayers::emulator
