// Instructions on single bits and fields of them.
#include "families.h"

namespace pylayers::emulator {
namespace {

using U32 = uint32_t;
using U64 = uint64_t;

template <class T>
inline constexpr U32 width_of = 8 * sizeof(T);

template <class T>  // T(1) << n and so on are not defined for n of the width or more
T shifted_left(T a, U32 n) {
  return n < width_of<T> ? T(a << (n % width_of<T>)) : T(0);
}
template <class T>
T ones(U32 count) {
  return count < width_of<T> ? T(shifted_left(T(1), count) - 1) : T(~T(0));
}

// `count` bits from `start` on. Those of a signed number are extended by the highest one that there is.
template <class T>
T extracted(T a, U32 start, U32 count) {
  constexpr U32 highest = width_of<T> - 1;
  start &= 255, count &= 255;
  const U32 top = std::min(start + count - 1, highest);
  const T aligned = T(std::make_unsigned_t<T>(a) << (highest - std::min(top, highest)));
  const T beyond = T(std::is_signed_v<T> ? a >> highest : 0);
  return count == 0 ? T(0) : start > top ? beyond : T(aligned >> std::min(highest - top + start, highest));
}

template <class T>
T inserted(T field, T into, U32 start, U32 count) {
  start &= 255, count &= 255;
  const T mask = ones<T>(count);
  return (into & ~shifted_left(mask, start)) | shifted_left(T(field & mask), start);
}

template <class T>
T reversed(T a) {
  T result = 0;
  for (U32 i = 0; i < width_of<T>; ++i) result = T(result << 1 | (a >> i & 1));
  return result;
}

template <class T>
U32 leading_zeros(T a) {
  return a == 0 ? width_of<T> : U32(__builtin_clzll(U64(a))) - (64 - width_of<T>);
}

// The highest bit that is not a copy of the sign; all ones if there is none.
template <class T>
U32 highest_bit(T a) {
  using Unsigned = std::make_unsigned_t<T>;
  return width_of<T> - 1 - leading_zeros(Unsigned(a < 0 ? ~a : a));
}

// The position of the n-th set bit from `base` on, upwards, or downwards for negative n. All ones if there is none.
U32 nth_set(U32 mask, U32 base, int32_t n) {
  if (n == 0) return base < 32 && (mask >> base & 1) ? base : ~0u;
  const int step = n > 0 ? 1 : -1;
  int64_t position = base;
  for (int64_t left = std::abs(int64_t(n)); position >= 0 && position < 32; position += step)
    if ((mask >> position & 1) && --left == 0) return U32(position);
  return ~0u;
}

// One of eight bits of `table` for each bit of a, b and c.
U32 looked_up(U32 a, U32 b, U32 c, U32 table) {
  const auto choose = [](U32 chooser, U32 one, U32 zero) { return (one & chooser) | (zero & ~chooser); };
  const auto entry = [table](int i) { return table >> i & 1 ? ~0u : 0u; };
  const auto pair = [&](int i) { return choose(c, entry(i + 1), entry(i)); };
  return choose(a, choose(b, pair(6), pair(4)), choose(b, pair(2), pair(0)));
}

U64 joined(U32 low, U32 high) { return U64(high) << 32 | low; }

void define_funnel_shifts() {
  using Signature = U32(U32, U32, U32);
  define_lanes<Signature>("shf.l.wrap.b32", [](U32 a, U32 b, U32 n) { return U32(joined(a, b) << (n & 31) >> 32); });
  define_lanes<Signature>("shf.r.wrap.b32", [](U32 a, U32 b, U32 n) { return U32(joined(a, b) >> (n & 31)); });
  define_lanes<Signature>("shf.l.clamp.b32", [](U32 a, U32 b, U32 n) { return U32(joined(a, b) << std::min(n, 32u) >> 32); });
  define_lanes<Signature>("shf.r.clamp.b32", [](U32 a, U32 b, U32 n) { return U32(joined(a, b) >> std::min(n, 32u)); });
}

void define_masks() {
  define_lanes<U32(U32, U32)>("bmsk.clamp.b32", [](U32 start, U32 count) { return shifted_left(ones<U32>(count), start); });
  define_lanes<U32(U32, U32)>("bmsk.wrap.b32", [](U32 start, U32 count) {
    return shifted_left(ones<U32>(count & 31), start & 31);
  });
  define_lanes<U32(U32, U32)>("szext.clamp.u32", [](U32 a, U32 count) { return a & ones<U32>(count); });
  define_lanes<U32(U32, U32)>("szext.wrap.u32", [](U32 a, U32 count) { return a & ones<U32>(count & 31); });
  define_lanes<int32_t(int32_t, U32)>("szext.clamp.s32", [](int32_t a, U32 count) {
    return extracted(a, 0, std::min(count, 32u));
  });
  define_lanes<int32_t(int32_t, U32)>("szext.wrap.s32", [](int32_t a, U32 count) { return extracted(a, 0, count & 31); });
}

template <class T>
void define_fields(const std::string& width) {
  using Signed = std::make_signed_t<T>;
  define_lanes<T(T, U32, U32)>("bfe.u" + width, [](T a, U32 start, U32 count) { return extracted(a, start, count); });
  define_lanes<Signed(Signed, U32, U32)>("bfe.s" + width, [](Signed a, U32 start, U32 count) {
    return extracted(a, start, count);
  });
  define_lanes<T(T, T, U32, U32)>("bfi.b" + width, [](T field, T into, U32 start, U32 count) {
    return inserted(field, into, start, count);
  });
  define_lanes<T(T)>("brev.b" + width, [](T a) { return reversed(a); });
  define_lanes<U32(T)>("clz.b" + width, [](T a) { return leading_zeros(a); });
  define_lanes<U32(T)>("popc.b" + width, [](T a) { return U32(__builtin_popcountll(a)); });
  define_lanes<U32(T)>("bfind.u" + width, [](T a) { return highest_bit(a); });
  define_lanes<U32(Signed)>("bfind.s" + width, [](Signed a) { return highest_bit(a); });
  define_lanes<U32(T)>("bfind.shiftamt.u" + width, [](T a) { return a == 0 ? ~0u : leading_zeros(a); });
  define_lanes<U32(Signed)>("bfind.shiftamt.s" + width, [](Signed a) {
    const T rest = T(a < 0 ? ~a : a);
    return rest == 0 ? ~0u : leading_zeros(rest);
  });
}

}  // namespace

void define_bit_fields() {
  define_fields<uint32_t>("32");
  define_fields<uint64_t>("64");
  define_funnel_shifts();
  define_masks();
  define_lanes<U32(U32, U32, int32_t)>("fns.b32", [](U32 mask, U32 base, int32_t n) { return nth_set(mask, base, n); });
  define_lanes<U32(U32, U32, U32, U32)>("lop3.b32", [](U32 a, U32 b, U32 c, U32 table) { return looked_up(a, b, c, table); });
}

}  // namespace pylayers::emulator
