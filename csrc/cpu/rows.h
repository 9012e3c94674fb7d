// Walking the rows of matrices: addresses, streamed stores, sums along a row and sums over rows.
#pragma once

#include <algorithm>

#include "parallel.h"
#include "vector.h"

namespace pylayers::cpu::PYLAYERS_ISA {

template <class scalar_t>
inline const scalar_t* row_of(const Input& x, int64_t row) {
  return static_cast<const scalar_t*>(x.data) + row * x.stride[0];
}

template <class scalar_t>
inline scalar_t* row_of(const Output& y, int64_t row) {
  return static_cast<scalar_t*>(y.data) + row * y.stride[0];
}

inline int64_t bytes_of(const Output& y) {
  return y ? y.rows() * y.dim() * pylayers::bytes_of(y.dtype) : 0;
}

// True where whole vectors of y are aligned and its readers will not find it in the caches anyway. Only for an output that is written
// from its beginning to its end: stores past the caches that alternate between places cost a multiple of others.
template <class scalar_t>
inline bool can_stream(const Output& y) {
  constexpr int64_t size = sizeof(typename Packed<scalar_t>::type);
  const auto element = static_cast<int64_t>(sizeof(scalar_t));
  return y && reinterpret_cast<uintptr_t>(y.data) % size == 0 && (y.rows() == 1 || y.stride[0] * element % size == 0) &&
         larger_than_caches(bytes_of(y));
}

inline void stream_fence() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

// body(std::true_type()) or body(std::false_type()): a loop for each, without the question inside.
template <class Body>
inline void if_streamed(bool streamed, Body&& body) {
  if (!streamed) return body(std::false_type());
  body(std::true_type());
  stream_fence();
}

template <class scalar_t, class V, class Count, class Streamed>
inline void put(scalar_t* to, V v, Count count, Streamed) {
  if constexpr (Streamed::value && std::is_same_v<Count, Whole>) {
    stream(to, v);
  } else {
    store(to, v, count);
  }
}

// v with zeros behind its first `count` lanes: where the zeros of a partial load would not stay zeros.
template <class V>
inline V first_lanes(V v, int64_t count) { return first_or(v, count, std::remove_reference_t<decltype(v[0])>(0)); }
template <class V>
inline V first_lanes(V v, Whole) { return v; }

// Σ term(col, count) over the columns, in four independent sums.
template <class acc_t, class Term>
inline acc_t row_sum(int64_t dim, Term&& term) {
  constexpr int lanes = kLanes<acc_t>;
  Vector<acc_t> a{}, b{}, c{}, d{};
  int64_t col = 0;
  for (; col + 4 * lanes <= dim; col += 4 * lanes) {
    a += term(col, Whole());
    b += term(col + lanes, Whole());
    c += term(col + 2 * lanes, Whole());
    d += term(col + 3 * lanes, Whole());
  }
  for (; col + lanes <= dim; col += lanes) a += term(col, Whole());
  if (col < dim) b += term(col, dim - col);
  return sum<acc_t>((a + b) + (c + d));
}

// to[dim] = factor · Σ of the `count` rows of parts, in order and in runs: the longer a sum, the more it rounds.
template <class scalar_t, class acc_t>
inline void add_parts(scalar_t* to, const acc_t* parts, int64_t count, int64_t dim, acc_t factor = 1) {
  constexpr int64_t block = 16 * kLanes<acc_t>, run = 64;
  parallel_for((dim + block - 1) / block, kGrain / (count * block) + 1, [&](int64_t begin, int64_t end) {
    const int64_t start = begin * block;
    for_vectors<kLanes<acc_t>>(std::min(end * block, dim) - start, [&](int64_t col, auto lanes) {
      Vector<acc_t> total{};
      for (int64_t first = 0; first < count; first += run) {
        Vector<acc_t> some{};
        for (int64_t part = first; part < std::min(first + run, count); ++part) some += load(parts + part * dim + start + col, lanes);
        total += some;
      }
      store(to + start + col, total * factor, lanes);
    });
  });
}

template <class scalar_t>
inline void add_parts(const Output& sum, const Output& partial) {
  add_parts(static_cast<scalar_t*>(sum.data), static_cast<const accumulation_t<scalar_t>*>(partial.data), partial.rows(), partial.dim());
}

// Each of `count` sums [dim] = Σ over the rows: range(sum, begin, end) adds the rows [begin, end) to the dim sums of one part,
// which are zero at first; then the parts are added in order. The parts are given, so the result does not depend on the number of
// threads. partial holds the parts of the first sum, then those of the second, which range finds so many rows behind.
template <class scalar_t, class Range>
inline void sums_over_rows(const Output* sums, int count, Output partial, int64_t rows, const Range& range) {
  using acc_t = accumulation_t<scalar_t>;
  const int64_t parts = partial.rows() / count, dim = partial.dim();
  acc_t* const memory = static_cast<acc_t*>(partial.data);
  parallel_for(parts, kGrain * parts / (rows * dim) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      acc_t* sum = memory + part * dim;
      for (int i = 0; i < count; ++i) std::fill_n(sum + i * parts * dim, dim, acc_t(0));
      range(sum, rows * part / parts, rows * (part + 1) / parts);
    }
  });
  for (int i = 0; i < count; ++i) add_parts(static_cast<scalar_t*>(sums[i].data), memory + i * parts * dim, parts, dim);
}

template <class scalar_t, class Range>
inline void sum_over_rows(const Output& sums, Output partial, int64_t rows, const Range& range) {
  sums_over_rows<scalar_t>(&sums, 1, partial, rows, range);
}

// Elementwise work: body(row, begin, end) on column ranges of about `kGrain` elements, in parallel. Where every matrix is
// contiguous the caller passes one row of rows · dim columns.
template <class Body>
inline void for_tiles(int64_t rows, int64_t dim, const Body& body) {
  constexpr int64_t tile = 8192;
  const int64_t tiles = (dim + tile - 1) / tile;
  parallel_for(rows * tiles, kGrain / std::min(dim, tile) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t start = i % tiles * tile;
      body(i / tiles, start, std::min(start + tile, dim));
    }
  });
}

// The matrix as one row, if its rows follow each other in memory.
template <class View>
inline bool is_flat(const View& x) {
  return x.rows() == 1 || x.stride[0] == x.dim();
}

}  // namespace pylayers::cpu::PYLAYERS_ISA
