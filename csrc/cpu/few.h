// The first `count` of a vector's numbers in memory, at least one: for so few, a call of memcpy takes longer than what is done with
// them.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <cstdint>
#include <cstring>

namespace pylayers::cpu::PYLAYERS_ISA {

template <class T>
inline T read(const void* from) {
  T value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}
template <class T>
inline void write(void* to, T value) { std::memcpy(to, &value, sizeof(value)); }

// element: bytes of a number. What a load leaves out is zero.
template <class packed_t, int element>
struct Few {
  static packed_t load(const void* from, int64_t count) {
    packed_t packed = {};
    std::memcpy(&packed, from, count * element);
    return packed;
  }
  static void store(void* to, const packed_t& packed, int64_t count) { std::memcpy(to, &packed, count * element); }
};

#if PYLAYERS_VECTOR_BYTES == 32 && !defined(PYLAYERS_PORTABLE)

template <int element>
inline __m256i mask_of(int64_t count) {
  alignas(64) static constexpr int32_t kWords[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
  return read<__m256i>(kWords + 8 - count * (element / 4));
}

template <class packed_t>
struct Few<packed_t, 4> {
  static packed_t load(const void* from, int64_t count) {
    const __m256i packed = _mm256_maskload_epi32(static_cast<const int*>(from), mask_of<4>(count));
    return read<packed_t>(&packed);
  }
  static void store(void* to, const packed_t& packed, int64_t count) {
    _mm256_maskstore_epi32(static_cast<int*>(to), mask_of<4>(count), read<__m256i>(&packed));
  }
};

template <class packed_t>
struct Few<packed_t, 8> {
  static packed_t load(const void* from, int64_t count) {
    const __m256i packed = _mm256_maskload_epi64(static_cast<const long long*>(from), mask_of<8>(count));
    return read<packed_t>(&packed);
  }
  static void store(void* to, const packed_t& packed, int64_t count) {
    _mm256_maskstore_epi64(static_cast<long long*>(to), mask_of<8>(count), read<__m256i>(&packed));
  }
};

// Eight numbers of 16 bits: two accesses that may overlap.
template <class packed_t>
struct Few<packed_t, 2> {
  static packed_t load(const void* from, int64_t count) {
    const auto* numbers = static_cast<const uint16_t*>(from);
    uint64_t low = 0, high = 0;
    if (count >= 4) {
      low = read<uint64_t>(numbers);
      if (count > 4) high = read<uint64_t>(numbers + count - 4) >> 16 * (8 - count);
    } else {
      if (count & 1) low = numbers[count - 1];
      if (count & 2) low = low << 32 * (count & 1) | read<uint32_t>(numbers);
    }
    const __m128i both = _mm_set_epi64x(static_cast<long long>(high), static_cast<long long>(low));  // not through memory, in parts
    return read<packed_t>(&both);
  }
  static void store(void* to, const packed_t& packed, int64_t count) {
    auto* numbers = static_cast<uint16_t*>(to);
    const auto both = read<__m128i>(&packed);
    const auto low = static_cast<uint64_t>(_mm_cvtsi128_si64(both)), high = static_cast<uint64_t>(_mm_extract_epi64(both, 1));
    if (count >= 4) {
      const auto by = 16 * (count - 4);
      write(numbers, low);
      write(numbers + count - 4, by == 64 ? high : low >> by | high << 1 << (63 - by));
    } else {
      if (count & 2) write(numbers, static_cast<uint32_t>(low));
      if (count & 1) write(numbers + count - 1, static_cast<uint16_t>(low >> 16 * (count - 1)));
    }
  }
};

#elif PYLAYERS_VECTOR_BYTES == 64 && !defined(PYLAYERS_PORTABLE)

template <class packed_t>
struct Few<packed_t, 4> {
  static packed_t load(const void* from, int64_t count) {
    const __m512i packed = _mm512_maskz_loadu_epi32(static_cast<__mmask16>((1u << count) - 1), from);
    return read<packed_t>(&packed);
  }
  static void store(void* to, const packed_t& packed, int64_t count) {
    _mm512_mask_storeu_epi32(to, static_cast<__mmask16>((1u << count) - 1), read<__m512i>(&packed));
  }
};

template <class packed_t>
struct Few<packed_t, 8> {
  static packed_t load(const void* from, int64_t count) {
    const __m512i packed = _mm512_maskz_loadu_epi64(static_cast<__mmask8>((1u << count) - 1), from);
    return read<packed_t>(&packed);
  }
  static void store(void* to, const packed_t& packed, int64_t count) {
    _mm512_mask_storeu_epi64(to, static_cast<__mmask8>((1u << count) - 1), read<__m512i>(&packed));
  }
};

template <class packed_t>
struct Few<packed_t, 2> {
  static packed_t load(const void* from, int64_t count) {
    const __m256i packed = _mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << count) - 1), from);
    return read<packed_t>(&packed);
  }
  static void store(void* to, const packed_t& packed, int64_t count) {
    _mm256_mask_storeu_epi16(to, static_cast<__mmask16>((1u << count) - 1), read<__m256i>(&packed));
  }
};

#endif

}  // namespace pylayers::cpu::PYLAYERS_ISA
