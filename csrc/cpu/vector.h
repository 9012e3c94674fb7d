// Vectors as wide as the instruction set this file is compiled for, through the compiler's vector extension: + - * / and
// comparisons are operators. Memory holds scalar_t; arithmetic is float, or double for double.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "../view.h"

// The build defines both for the files that it makes per instruction set. PYLAYERS_PORTABLE does without intrinsics.
#ifndef PYLAYERS_ISA
#define PYLAYERS_ISA baseline
#define PYLAYERS_VECTOR_BYTES 16
#endif

#include "few.h"

namespace pylayers::cpu::PYLAYERS_ISA {

struct float16 {
  uint16_t bits;
};
struct bfloat16 {
  uint16_t bits;
};

inline constexpr int kVectorBytes = PYLAYERS_VECTOR_BYTES;

template <class scalar_t>
using accumulation_t = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;

template <class T>
inline constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

template <class T, int lanes>
struct VectorOf {
  typedef T type __attribute__((vector_size(lanes * sizeof(T))));
};
template <class T, int lanes = kLanes<T>>
using Vector = typename VectorOf<T, lanes>::type;

template <class To, class From>
inline To bit_cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

template <class acc_t>
inline Vector<acc_t> splat(acc_t value) {
  return value - Vector<acc_t>{};
}

// v, of which no part is fused with the sum that it goes into: a product that is subtracted from itself leaves nothing.
template <class V>
inline V rounded(V v) {
#if defined(__AVX512F__)
  asm("" : "+v"(v));
#elif defined(__x86_64__)
  asm("" : "+x"(v));
#elif defined(__aarch64__)
  asm("" : "+w"(v));
#endif
  return v;
}

// ---- what memory holds <-> what is computed, one vector of acc_t lanes

template <class scalar_t>
struct Packed {  // float and double are stored as they are computed
  using type = Vector<scalar_t>;
  static Vector<scalar_t> unpack(type v) { return v; }
  static type pack(Vector<scalar_t> v) { return v; }
};

inline constexpr int kFloats = kLanes<float>;
using Floats = Vector<float>;
using Words = Vector<uint32_t>;

// Between 16 and 32 bits a lane. The compiler's own conversion of vectors takes several times as long.
inline Words widen(Vector<uint16_t, kFloats> v) {
#if PYLAYERS_VECTOR_BYTES == 64 && !defined(PYLAYERS_PORTABLE)
  return bit_cast<Words>(_mm512_cvtepu16_epi32(bit_cast<__m256i>(v)));
#elif PYLAYERS_VECTOR_BYTES == 32 && !defined(PYLAYERS_PORTABLE)
  return bit_cast<Words>(_mm256_cvtepu16_epi32(bit_cast<__m128i>(v)));
#else
  return __builtin_convertvector(v, Words);
#endif
}

inline Vector<uint16_t, kFloats> narrow(Words v) {  // of values below 2¹⁶
#if PYLAYERS_VECTOR_BYTES == 64 && !defined(PYLAYERS_PORTABLE)
  return bit_cast<Vector<uint16_t, kFloats>>(_mm512_cvtepi32_epi16(bit_cast<__m512i>(v)));
#elif PYLAYERS_VECTOR_BYTES == 32 && !defined(PYLAYERS_PORTABLE)
  const __m256i words = bit_cast<__m256i>(v);
  const __m128i packed = _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  return bit_cast<Vector<uint16_t, kFloats>>(packed);
#else
  return __builtin_convertvector(v, Vector<uint16_t, kFloats>);
#endif
}

template <>
struct Packed<bfloat16> {
  using type = Vector<uint16_t, kFloats>;
  static Floats unpack(type v) { return bit_cast<Floats>(widen(v) << 16); }
  static type pack(Floats v) {
    const Words bits = bit_cast<Words>(v);
    const Words rounded = bits + (((bits >> 16) & 1) + 0x7fff);  // to nearest even
    return narrow((v == v ? rounded : bits | 0x400000) >> 16);    // a nan stays one
  }
};

template <>
struct Packed<float16> {
  using type = Vector<uint16_t, kFloats>;
#if PYLAYERS_VECTOR_BYTES == 64 && !defined(PYLAYERS_PORTABLE)
  static Floats unpack(type v) { return bit_cast<Floats>(_mm512_cvtph_ps(bit_cast<__m256i>(v))); }
  static type pack(Floats v) { return bit_cast<type>(_mm512_cvtps_ph(bit_cast<__m512>(v), _MM_FROUND_TO_NEAREST_INT)); }
#elif PYLAYERS_VECTOR_BYTES == 32 && !defined(PYLAYERS_PORTABLE)
  static Floats unpack(type v) { return bit_cast<Floats>(_mm256_cvtph_ps(bit_cast<__m128i>(v))); }
  static type pack(Floats v) { return bit_cast<type>(_mm256_cvtps_ph(bit_cast<__m256>(v), _MM_FROUND_TO_NEAREST_INT)); }
#else
  static Floats unpack(type v) {
    const Words bits = widen(v);
    // The multiplication puts the exponent bias right, for subnormal numbers too.
    const Floats magnitude = bit_cast<Floats>((bits & 0x7fff) << 13) * 0x1p112f;
    const Words special = (bits & 0x7c00) == 0x7c00 ? Words{} + 0x7f800000u : Words{};
    return bit_cast<Floats>(bit_cast<Words>(magnitude) | special | (bits & 0x8000) << 16);
  }
  static type pack(Floats v) {
    const Words bits = bit_cast<Words>(v), magnitude = bits & 0x7fffffff;
    const Words normal = (magnitude - 0x38000000u + 0xfff + ((magnitude >> 13) & 1)) >> 13;
    // Adding 0.5 leaves the rounded subnormal number in the low bits.
    const Words subnormal = bit_cast<Words>(bit_cast<Floats>(magnitude) + 0.5f) - 0x3f000000u;
    const Words special = magnitude > 0x7f800000u ? Words{} + 0x7e00u : Words{} + 0x7c00u;
    const Words finite = magnitude < 0x38800000u ? subnormal : normal;
    return narrow((magnitude < 0x47800000u ? finite : special) | (bits >> 16 & 0x8000));
  }
#endif
};

template <class scalar_t>
inline Vector<accumulation_t<scalar_t>> load(const scalar_t* from) {
  typename Packed<scalar_t>::type packed;
  std::memcpy(&packed, from, sizeof(packed));
  return Packed<scalar_t>::unpack(packed);
}

template <class scalar_t>
inline void store(scalar_t* to, Vector<accumulation_t<scalar_t>> v) {
  const auto packed = Packed<scalar_t>::pack(v);
  std::memcpy(to, &packed, sizeof(packed));
}

// The first `count` lanes; the others are zero.
template <class scalar_t>
inline Vector<accumulation_t<scalar_t>> load(const scalar_t* from, int64_t count) {
  return Packed<scalar_t>::unpack(Few<typename Packed<scalar_t>::type, sizeof(scalar_t)>::load(from, count));
}

template <class scalar_t>
inline void store(scalar_t* to, Vector<accumulation_t<scalar_t>> v, int64_t count) {
  Few<typename Packed<scalar_t>::type, sizeof(scalar_t)>::store(to, Packed<scalar_t>::pack(v), count);
}

// A store past the caches, to an address that is a multiple of the stored vector's size.
template <class packed_t>
inline void stream_bytes(void* to, const packed_t& packed) {
#if defined(__x86_64__)
  if constexpr (sizeof(packed) % 16 == 0) {  // stores of one cache line meet again in the write-combining buffer
    for (size_t i = 0; i < sizeof(packed); i += 16)
      _mm_stream_si128(reinterpret_cast<__m128i*>(static_cast<char*>(to) + i), read<__m128i>(reinterpret_cast<const char*>(&packed) + i));
    return;
  }
#endif
  write(to, packed);
}

template <class scalar_t>
inline void stream(scalar_t* to, Vector<accumulation_t<scalar_t>> v) { stream_bytes(to, Packed<scalar_t>::pack(v)); }

template <class acc_t>
using Index = std::conditional_t<sizeof(acc_t) == 8, int64_t, int32_t>;

template <class acc_t>
using Indices = Vector<Index<acc_t>>;

template <class acc_t>
using Lanes = std::make_integer_sequence<int, kLanes<acc_t>>;

template <class acc_t, int by, int... lane>
inline Vector<acc_t> rotated(Vector<acc_t> v, std::integer_sequence<int, lane...>) {
#if defined(__clang__)
  return __builtin_shufflevector(v, v, (lane + by) % kLanes<acc_t>...);
#else
  return __builtin_shuffle(v, Indices<acc_t>{(lane + by) % kLanes<acc_t>...});
#endif
}

// f over the lanes, each with the one half the vector away first.
template <class acc_t, class F, int by = kLanes<acc_t> / 2>
inline acc_t fold(Vector<acc_t> v, const F& f) {
  if constexpr (by == 0) return v[0];
  else return fold<acc_t, F, by / 2>(f(v, rotated<acc_t, by>(v, Lanes<acc_t>())), f);
}

template <class acc_t>
inline acc_t sum(Vector<acc_t> v) {
  return fold<acc_t>(v, [](Vector<acc_t> a, Vector<acc_t> b) { return a + b; });
}

// v with another number behind its first `count` lanes.
template <class acc_t, int... lane>
inline Vector<acc_t> first_or(Vector<acc_t> v, int64_t count, acc_t otherwise, std::integer_sequence<int, lane...>) {
  return Indices<acc_t>{lane...} < static_cast<Index<acc_t>>(count) ? v : splat(otherwise);
}
template <class acc_t>
inline Vector<acc_t> first_or(Vector<acc_t> v, int64_t count, acc_t otherwise) {
  return first_or(v, count, otherwise, Lanes<acc_t>());
}

// ---- loops

struct Whole {};  // a full vector; the tail is an int64_t count instead

template <class scalar_t>
inline auto load(const scalar_t* from, Whole) { return load(from); }
template <class scalar_t, class V>
inline void store(scalar_t* to, V v, Whole) { store(to, v); }

// What a load finds after the store.
template <class scalar_t, class V, class Count>
inline V store_and_load(scalar_t* to, V v, Count count) {
  store(to, v, count);
  return Packed<scalar_t>::unpack(Packed<scalar_t>::pack(v));
}

// body(col, Whole) for every full vector of `lanes` columns in [0, dim), body(col, count) for what remains.
template <int lanes, class Body>
inline void for_vectors(int64_t dim, Body&& body) {
  int64_t col = 0;
  for (; col + lanes <= dim; col += lanes) body(col, Whole());
  if (col < dim) body(col, dim - col);
}

// body(scalar_t()) for the type that stands for dtype.
template <class Body>
inline void dispatch(Dtype dtype, Body&& body) {
  switch (dtype) {
    case Dtype::float64: return body(double());
    case Dtype::float32: return body(float());
    case Dtype::float16: return body(float16());
    case Dtype::bfloat16: return body(bfloat16());
    case Dtype::int64: return;
  }
}

}  // namespace pylayers::cpu::PYLAYERS_ISA
