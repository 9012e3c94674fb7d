// Two vectors of neighbouring bfloat16, the even ones and the odd ones: much less work than to bring them into order. For what treats
// all columns alike, or whose other operands lie likewise.
#pragma once

#include "math.h"
#include "rows.h"

namespace pylayers::cpu::PYLAYERS_ISA {

struct Pair {};  // instead of Whole: a vector of bytes, which holds two of numbers

template <class V>
struct Two {
  V even, odd;

  Two& operator+=(const Two& other) {
    even += other.even, odd += other.odd;
    return *this;
  }
};

// The sum of both.
template <class V>
inline V together(V v) { return v; }
template <class V>
inline V together(Two<V> v) { return v.even + v.odd; }

// f of vectors, or of both halves of each.
template <class F, class V, class... Others>
inline auto each(const F& f, V v, Others... others) { return f(v, others...); }
template <class F, class V, class... Others>
inline auto each(const F& f, Two<V> v, Others... others) {
  return Two<V>{f(v.even, others.even...), f(v.odd, others.odd...)};
}

template <class V>
inline Two<V> operator+(Two<V> a, Two<V> b) { return {a.even + b.even, a.odd + b.odd}; }
template <class V>
inline Two<V> operator-(Two<V> a, Two<V> b) { return {a.even - b.even, a.odd - b.odd}; }
template <class V>
inline Two<V> operator*(Two<V> a, Two<V> b) { return {a.even * b.even, a.odd * b.odd}; }
template <class V>
inline Two<V> operator+(Two<V> a, element_t<V> b) { return {a.even + b, a.odd + b}; }
template <class V>
inline Two<V> operator-(Two<V> a, element_t<V> b) { return {a.even - b, a.odd - b}; }
template <class V>
inline Two<V> operator*(Two<V> a, element_t<V> b) { return {a.even * b, a.odd * b}; }

// The bits of bfloat16, where those of float have their upper half. A nan that came from bfloat16, or out of arithmetic, has zeros in the
// lower one: to it nothing is carried over.
inline Words rounded_bits(Floats v) {
  const Words bits = bit_cast<Words>(v);
  return (bits + (((bits >> 16) & 1) + 0x7fff)) & 0xffff0000;
}

inline Two<Floats> load(const bfloat16* from, Pair) {
  const auto both = read<Words>(from);
  return {bit_cast<Floats>(both << 16), bit_cast<Floats>(both & 0xffff0000)};
}
inline void store(bfloat16* to, Two<Floats> v, Pair) { write(to, rounded_bits(v.even) >> 16 | rounded_bits(v.odd)); }
inline Two<Floats> store_and_load(bfloat16* to, Two<Floats> v, Pair) {
  const Words even = rounded_bits(v.even), odd = rounded_bits(v.odd);
  write(to, even >> 16 | odd);
  return {bit_cast<Floats>(even), bit_cast<Floats>(odd)};
}


// Numbers of float that lie as pairs do.
inline Two<Floats> load(const float* from, Pair) { return {load(from), load(from + kFloats)}; }
inline void store(float* to, Two<Floats> v, Pair) { store(to, v.even), store(to + kFloats, v.odd); }

template <class Streamed>
inline void put(bfloat16* to, Two<Floats> v, Pair, Streamed) {
  const Words both = rounded_bits(v.even) >> 16 | rounded_bits(v.odd);
  if constexpr (Streamed::value) stream_bytes(to, both);
  else write(to, both);
}

template <class V>
inline V first_lanes(V v, Pair) { return v; }

// How columns of several matrices are walked: in pairs only where all of them are stored as such.
template <class First, class... Others>
using columns_of = std::conditional_t<(std::is_same_v<First, Others> && ...), First, accumulation_t<First>>;

// body(col, Pair) for the columns of as many whole pairs as there are, if such are stored, and then as for_vectors.
template <class scalar_t, class Body>
inline void for_columns(int64_t dim, const Body& body) {
  constexpr int lanes = kLanes<accumulation_t<scalar_t>>;
  int64_t col = 0;
  if constexpr (std::is_same_v<scalar_t, bfloat16>)
    for (; col + 2 * lanes <= dim; col += 2 * lanes) body(col, Pair());
  for (; col + lanes <= dim; col += lanes) body(col, Whole());
  if (col < dim) body(col, dim - col);
}

// As row_sum, with term(col, Pair) for pairs.
template <class scalar_t, class Term>
inline accumulation_t<scalar_t> sum_of_columns(int64_t dim, const Term& term) {
  using acc_t = accumulation_t<scalar_t>;
  if constexpr (!std::is_same_v<scalar_t, bfloat16>) {
    return row_sum<acc_t>(dim, term);
  } else {
    constexpr int lanes = kLanes<acc_t>;
    Two<Floats> a{}, b{};
    int64_t col = 0;
    for (; col + 4 * lanes <= dim; col += 4 * lanes) a += term(col, Pair()), b += term(col + 2 * lanes, Pair());
    const acc_t rest = row_sum<acc_t>(dim - col, [&](int64_t past, auto count) { return term(col + past, count); });
    return sum<acc_t>((a.even + a.odd) + (b.even + b.odd)) + rest;
  }
}

}  // namespace pylayers::cpu::PYLAYERS_ISA
