// Philox4x32-10 on vectors, a counter in each 64-bit lane.
#pragma once

#include <array>

#include "../philox.h"
#include "vector.h"

namespace pylayers::cpu::PYLAYERS_ISA {

using Longs = Vector<uint64_t>;
inline constexpr int kLongs = kLanes<uint64_t>;
inline constexpr uint64_t kLowWord = 0xffffffff;

// The low words of a times b, in 64 bits. The high words of a do not matter.
inline Longs multiply_words(Longs a, uint32_t b) {
#if PYLAYERS_VECTOR_BYTES == 64 && !defined(PYLAYERS_PORTABLE)
  return bit_cast<Longs>(_mm512_mul_epu32(bit_cast<__m512i>(a), _mm512_set1_epi64(b)));
#elif PYLAYERS_VECTOR_BYTES == 32 && !defined(PYLAYERS_PORTABLE)
  return bit_cast<Longs>(_mm256_mul_epu32(bit_cast<__m256i>(a), _mm256_set1_epi64x(b)));
#elif defined(__x86_64__) && !defined(PYLAYERS_PORTABLE)
  return bit_cast<Longs>(_mm_mul_epu32(bit_cast<__m128i>(a), _mm_set1_epi64x(b)));
#else
  return (a & kLowWord) * static_cast<uint64_t>(b);
#endif
}

// first, first + step, first + 2 · step, …
inline Longs counters(uint64_t first, uint64_t step) {
  Longs offset{};
  for (int i = 0; i < kLongs; ++i) offset[i] = i * step;
  return first + offset;
}

// Four words a counter, in the low halves of the lanes: what the high halves hold is undefined. Of several vectors of counters at
// once: a round waits for the one before, and their rounds fill the gaps.
template <size_t count>
inline std::array<std::array<Longs, 4>, count> philox(const std::array<Longs, count>& counter, uint64_t seed) {
  std::array<Longs, count> a = counter, b{}, c{}, d{};
#pragma GCC unroll 4
  for (size_t i = 0; i < count; ++i) b[i] = counter[i] >> 32;
  auto key = static_cast<uint32_t>(seed), other_key = static_cast<uint32_t>(seed >> 32);
#pragma GCC unroll 10
  for (int round = 0; round < kPhiloxRounds; ++round) {
#pragma GCC unroll 4
    for (size_t i = 0; i < count; ++i) {
      const Longs p = multiply_words(a[i], kPhiloxMultiplier0), q = multiply_words(c[i], kPhiloxMultiplier1);
      a[i] = (q >> 32) ^ b[i] ^ static_cast<uint64_t>(key);
      b[i] = q;
      c[i] = (p >> 32) ^ d[i] ^ static_cast<uint64_t>(other_key);
      d[i] = p;
    }
    key += kPhiloxStep0;
    other_key += kPhiloxStep1;
  }
  std::array<std::array<Longs, 4>, count> words;
#pragma GCC unroll 4
  for (size_t i = 0; i < count; ++i) words[i] = {a[i], b[i], c[i], d[i]};
  return words;
}
inline std::array<Longs, 4> philox(Longs counter, uint64_t seed) { return philox(std::array<Longs, 1>{counter}, seed)[0]; }

}  // namespace pylayers::cpu::PYLAYERS_ISA
