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

// True where whole vectors of y are aligned and its readers will not find it in the caches anyway.
template <class scalar_t>
inline bool can_stream(const Output& y) {
  constexpr int64_t size = sizeof(typename Packed<scalar_t>::type);
  const auto element = static_cast<int64_t>(sizeof(scalar_t));
  return y && reinterpret_cast<uintptr_t>(y.data) % size == 0 && (y.rows() == 1 || y.stride[0] * element % size == 0) &&
         larger_than_caches(y.rows() * y.dim() * element);
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

// sums[dim] = Σ over the parts, in their order.
template <class scalar_t>
inline void add_parts(Output sums, Output partial) {
  using acc_t = accumulation_t<scalar_t>;
  const int64_t parts = partial.rows(), dim = partial.dim();
  constexpr int64_t block = 16 * kLanes<acc_t>;
  parallel_for((dim + block - 1) / block, kGrain / (parts * block) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t start = begin * block; start < std::min(end * block, dim); start += kLanes<acc_t>) {
      for_vectors<kLanes<acc_t>>(std::min<int64_t>(dim - start, kLanes<acc_t>), [&](int64_t, auto count) {
        Vector<acc_t> total{};
        for (int64_t part = 0; part < parts; ++part) total += load(row_of<acc_t>(partial, part) + start, count);
        store(static_cast<scalar_t*>(sums.data) + start, total, count);
      });
    }
  });
}

// sums[dim] = Σ over the rows: range(sum, begin, end) adds the rows [begin, end) to the dim sums of one part, which are zero at
// first; then the parts are added in order. The parts are given, so the result does not depend on the number of threads.
template <class scalar_t, class Range>
inline void sum_over_rows(Output sums, Output partial, int64_t rows, const Range& range) {
  using acc_t = accumulation_t<scalar_t>;
  const int64_t parts = partial.rows(), dim = partial.dim();
  parallel_for(parts, kGrain * parts / (rows * dim) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      acc_t* sum = row_of<acc_t>(partial, part);
      std::fill(sum, sum + dim, acc_t(0));
      range(sum, rows * part / parts, rows * (part + 1) / parts);
    }
  });
  add_parts<scalar_t>(sums, partial);
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
