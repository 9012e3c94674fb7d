// cvt to two numbers in a register, to tf32 and to 8-bit floats, and cvt.pack.
#include "families.h"

namespace pylayers::emulator {
namespace {

template <class H, Rounding mode, bool clamps>
uint32_t pair_of(float high, float low) {
  const H a = rounded<H, mode>(clamps ? relu(high) : high), b = rounded<H, mode>(clamps ? relu(low) : low);
  return uint32_t(a.bits) << 16 | b.bits;
}

template <class H>
void define_pairs_of_halves(const std::string& type) {
  using Signature = uint32_t(float, float);
  const std::string end = "." + type + "x2.f32";
  define_lanes<Signature>("cvt.rn" + end, [](float a, float b) { return pair_of<H, Rounding::kNearest, false>(a, b); });
  define_lanes<Signature>("cvt.rz" + end, [](float a, float b) { return pair_of<H, Rounding::kZero, false>(a, b); });
  define_lanes<Signature>("cvt.rn.relu" + end, [](float a, float b) { return pair_of<H, Rounding::kNearest, true>(a, b); });
  define_lanes<Signature>("cvt.rz.relu" + end, [](float a, float b) { return pair_of<H, Rounding::kZero, true>(a, b); });
}

// tf32 has the upper 19 bits of f32. `extra` is what is added before the others are cut off.
uint32_t tf32_of(float x, uint32_t extra) {
  const uint32_t bits = bits_as<uint32_t>(x), magnitude = bits & 0x7fffffffu;
  const uint32_t cut = (bits + (magnitude < 0x7f800000u ? extra : 0)) & 0xffffe000u;
  return magnitude > 0x7f800000u ? 0x7fffffffu : cut;
}
uint32_t to_even(float x) { return 0xfffu + (bits_as<uint32_t>(x) >> 13 & 1u); }

void define_tf32() {
  define_lanes<uint32_t(float)>("cvt.rna.tf32.f32", [](float x) { return tf32_of(x, 0x1000u); });  // halves away from 0
  define_lanes<uint32_t(float)>("cvt.rn.tf32.f32", [](float x) { return tf32_of(x, to_even(x)); });
  define_lanes<uint32_t(float)>("cvt.rz.tf32.f32", [](float x) { return tf32_of(x, 0); });
  define_lanes<uint32_t(float)>("cvt.rn.relu.tf32.f32", [](float x) { return tf32_of(relu(x), to_even(relu(x))); });
  define_lanes<uint32_t(float)>("cvt.rz.relu.tf32.f32", [](float x) { return tf32_of(relu(x), 0); });
}

struct E4M3 {
  static constexpr int mantissa = 3, bias = 7;
  static constexpr float largest = 448;
};
struct E5M2 {
  static constexpr int mantissa = 2, bias = 15;
  static constexpr float largest = 57344;
};

// The nearest 8-bit float, ties to even; what is larger than the largest one becomes that.
template <class Format>
uint8_t to_byte(float x) {
  if (x != x) return 0x7f;
  const float size = std::min(magnitude(x), Format::largest);
  const int exponent = std::max(size > 0 ? std::ilogb(size) : -200, 1 - Format::bias);
  const int steps = int(std::rint(std::ldexp(size, Format::mantissa - exponent)));  // 2^mantissa, if the number is normal
  const int bits = ((exponent + Format::bias - 1) << Format::mantissa) + steps;
  return uint8_t(bits | (std::signbit(x) ? 0x80 : 0));
}

template <class Format>
Half from_byte(uint8_t byte) {  // all of them are f16 numbers too
  if constexpr (std::is_same_v<Format, E5M2>) return nearest<Half>(to_wide(Half{uint16_t(byte << 8)}));
  const int magnitude = byte & 0x7f, exponent = magnitude >> Format::mantissa;
  const int fraction = (magnitude & ((1 << Format::mantissa) - 1)) + (exponent > 0 ? 1 << Format::mantissa : 0);
  const float value = std::ldexp(float(fraction), std::max(exponent, 1) - Format::bias - Format::mantissa);
  const Half result = nearest<Half>(value);
  return {uint16_t(magnitude == 0x7f ? 0x7fff : result.bits | (byte & 0x80) << 8)};
}

template <class Format, bool clamps>
uint16_t two_bytes(float high, float low) {
  return uint16_t(to_byte<Format>(clamps ? relu(high) : high) << 8 | to_byte<Format>(clamps ? relu(low) : low));
}
template <class Format, bool clamps>
uint16_t two_bytes(uint32_t halves) {
  return two_bytes<Format, clamps>(to_wide(Half{uint16_t(halves >> 16)}), to_wide(Half{uint16_t(halves)}));
}

template <class Format, bool clamps>
void define_to_bytes(const std::string& modifiers, const std::string& type) {
  const std::string name = "cvt" + modifiers + "." + type + "x2.";
  define_lanes<uint16_t(float, float)>(name + "f32", [](float a, float b) { return two_bytes<Format, clamps>(a, b); });
  define_lanes<uint16_t(uint32_t)>(name + "f16x2", [](uint32_t halves) { return two_bytes<Format, clamps>(halves); });
}

template <class Format>
void define_bytes(const std::string& type) {
  define_to_bytes<Format, false>(".rn.satfinite", type);
  define_to_bytes<Format, true>(".rn.satfinite.relu", type);
  define_lanes<uint32_t(uint16_t)>("cvt.rn.f16x2." + type + "x2", [](uint16_t bytes) {
    return uint32_t(from_byte<Format>(bytes >> 8).bits) << 16 | from_byte<Format>(uint8_t(bytes)).bits;
  });
}

template <class T>
uint32_t clamped(int32_t x) {  // its bits, without those of the sign beyond them
  return std::make_unsigned_t<T>(std::clamp<int32_t>(x, std::numeric_limits<T>::min(), std::numeric_limits<T>::max()));
}

void define_packs() {
  using Pair = uint32_t(int32_t, int32_t);
  using Pushed = uint32_t(int32_t, int32_t, uint32_t);  // onto what c holds
  define_lanes<Pair>("cvt.pack.sat.s16.s32", [](int32_t a, int32_t b) {
    return clamped<int16_t>(a) << 16 | clamped<int16_t>(b);
  });
  define_lanes<Pair>("cvt.pack.sat.u16.s32", [](int32_t a, int32_t b) {
    return clamped<uint16_t>(a) << 16 | clamped<uint16_t>(b);
  });
  define_lanes<Pushed>("cvt.pack.sat.s8.s32.b32", [](int32_t a, int32_t b, uint32_t c) {
    return c << 16 | clamped<int8_t>(a) << 8 | clamped<int8_t>(b);
  });
  define_lanes<Pushed>("cvt.pack.sat.u8.s32.b32", [](int32_t a, int32_t b, uint32_t c) {
    return c << 16 | clamped<uint8_t>(a) << 8 | clamped<uint8_t>(b);
  });
}

}  // namespace

void define_packed_conversions() {
  define_pairs_of_halves<Half>("f16");
  define_pairs_of_halves<BFloat16>("bf16");
  define_tf32();
  define_bytes<E4M3>("e4m3");
  define_bytes<E5M2>("e5m2");
  define_packs();
}

}  // namespace pylayers::emulator
