// What every softmax is made of.
#pragma once

#include <cmath>
#include <limits>

#include "math.h"
#include "rows.h"

namespace pylayers::cpu::PYLAYERS_ISA {

template <class acc_t>
inline constexpr acc_t kInfinity = std::numeric_limits<acc_t>::infinity();

template <class V>
inline V larger(V a, V b) {
  return a < b ? b : a;
}

inline constexpr int64_t kPiece = 16384;  // numbers: half of a second-level cache

// The largest term(col, count) over [begin, end); a nan is passed over.
template <class acc_t, class Term>
inline acc_t row_max(int64_t begin, int64_t end, const Term& term) {
  constexpr int lanes = kLanes<acc_t>;
  Vector<acc_t> a = splat(-kInfinity<acc_t>), b = a;
  int64_t col = begin;
  for (; col + 2 * lanes <= end; col += 2 * lanes) {
    a = larger(a, term(col, Whole()));
    b = larger(b, term(col + lanes, Whole()));
  }
  for (; col + lanes <= end; col += lanes) a = larger(a, term(col, Whole()));
  if (col < end) b = larger(b, first_or(term(col, end - col), end - col, -kInfinity<acc_t>));
  return fold<acc_t>(larger(a, b), [](auto a, auto b) { return larger(a, b); });
}

// to[0, live) = term(col, count), to[live, dim) = 0, in whole vectors from the start of the row on.
template <class acc_t, class scalar_t, class Term, class Streamed>
inline void write_row(scalar_t* to, int64_t live, int64_t dim, const Term& term, Streamed streamed) {
  constexpr int lanes = kLanes<acc_t>;
  const int64_t whole = live / lanes * lanes;
  for (int64_t col = 0; col < whole; col += lanes) put(to + col, term(col, Whole()), Whole(), streamed);
  for_vectors<lanes>(dim - whole, [&](int64_t past, auto count) {
    const int64_t col = whole + past;
    put(to + col, col < live ? first_lanes(term(col, live - col), live - col) : Vector<acc_t>{}, count, streamed);
  });
}

// The terms of a softmax are e^(score − shift) / total. What is −inf altogether has total 0.
template <class acc_t>
struct Normaliser {
  acc_t shift = 0, total = 0;

  // Goes on to a larger shift, so that what has been added is still in its terms.
  void raise(acc_t top) {
    if (top == -kInfinity<acc_t>) return;
    if (total != 0) total *= std::exp(shift - top);
    shift = top;
  }
  acc_t inverse(acc_t of_nothing) const { return total == 0 ? of_nothing : 1 / total; }
};

// score(col, count) over [0, live). held, if the row fits it, keeps the exponentials.
template <class acc_t, class Score>
inline Normaliser<acc_t> normaliser(int64_t live, const Score& score, acc_t* held) {
  Normaliser<acc_t> result;
  acc_t top = -kInfinity<acc_t>;
  for (int64_t begin = 0; begin < live; begin += kPiece) {
    const int64_t end = std::min(begin + kPiece, live);
    top = std::max(top, row_max<acc_t>(begin, end, score));
    result.raise(top);
    result.total += row_sum<acc_t>(end - begin, [&](int64_t col, auto count) {
      const auto e = first_lanes(exp_or_zero(score(begin + col, count) - result.shift), count);
      if (held) store(held + col, e, count);
      return e;
    });
  }
  return result;
}

}  // namespace pylayers::cpu::PYLAYERS_ISA
