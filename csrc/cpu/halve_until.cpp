// y = x · 2^−k with the smallest k ≥ 0 for which Σ|x| · 2^−k ≤ threshold. x is read twice, y is written once; the sum is made in
// parts, which are added in order.
#include <cmath>

#include "rows.h"

namespace pylayers::cpu::PYLAYERS_ISA {
namespace {

// So far a sum is scaled down that it cannot overflow, and the greatest power of two whose inverse is a normal number.
template <class acc_t>
inline constexpr int kShift = sizeof(acc_t) == 8 ? 512 : 64;
template <class acc_t>
inline constexpr int kMost = sizeof(acc_t) == 8 ? 1022 : 126;

// Σ|x| · factor. column: of partial [parts, 2].
template <class scalar_t, class acc_t>
acc_t total(Output partial, Input x, int column, acc_t factor) {
  const int64_t parts = partial.rows(), dim = x.dim();
  const auto* from = static_cast<const scalar_t*>(x.data);
  parallel_for(parts, kGrain * parts / dim + 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      const int64_t first = dim * part / parts;
      row_of<acc_t>(partial, part)[column] = row_sum<acc_t>(dim * (part + 1) / parts - first, [&](int64_t col, auto count) {
        const auto v = load(from + first + col, count);
        return (v < 0 ? -v : v) * factor;
      });
    }
  });
  constexpr int64_t run = 64;  // the longer a sum, the more it rounds
  acc_t sum = 0;
  for (int64_t first = 0; first < parts; first += run) {
    acc_t some = 0;
    for (int64_t part = first; part < std::min(first + run, parts); ++part) some += row_of<acc_t>(partial, part)[column];
    sum += some;
  }
  return sum;
}

// The smallest k ≥ 0 with sum · 2^(shift − k) ≤ threshold: mantissas are in [½, 1).
template <class acc_t>
acc_t halvings(acc_t sum, int shift, double threshold) {
  int exponent = 0, limit = 0;
  const bool more = std::frexp(static_cast<double>(sum), &exponent) > std::frexp(threshold, &limit);
  return sum == 0 ? acc_t(0) : acc_t(std::max(exponent + shift - limit + more, 0));
}

template <class scalar_t>
void scale(Output y, Input x, int exponent) {
  using acc_t = accumulation_t<scalar_t>;
  constexpr int most = kMost<acc_t>;
  // In factors that do not underflow, the last one last: only the last product may be subnormal, and is rounded once.
  const auto factor = [&](int i) { return std::ldexp(acc_t(1), -std::clamp(exponent - i * most, 0, most)); };
  const acc_t last = factor(0), second = factor(1), first = factor(2);
  const bool past_caches = can_stream<scalar_t>(y);
  for_tiles(1, y.dim(), [&](int64_t, int64_t begin, int64_t end) {
    const auto* from = static_cast<const scalar_t*>(x.data) + begin;
    auto* to = static_cast<scalar_t*>(y.data) + begin;
    if_streamed(past_caches, [&](auto streamed) {
      for_vectors<kLanes<acc_t>>(end - begin, [&](int64_t col, auto count) {
        put(to + col, load(from + col, count) * first * second * last, count, streamed);
      });
    });
  });
}

}  // namespace

void halve_until_forward(Output y, Output exponent, Output partial, Input x, double threshold) {
  dispatch(y.dtype, [&](auto type) {
    using scalar_t = decltype(type);
    using acc_t = accumulation_t<scalar_t>;
    acc_t k = 0;
    const acc_t sum = total<scalar_t, acc_t>(partial, x, 0, 1);
    if (std::isfinite(sum)) {
      k = halvings(sum, 0, threshold);
    } else {  // numbers that are finite may have a sum that is not
      const acc_t scaled = total<scalar_t, acc_t>(partial, x, 1, std::ldexp(acc_t(1), -kShift<acc_t>));
      if (std::isfinite(scaled)) k = halvings(scaled, kShift<acc_t>, threshold);
    }
    *static_cast<acc_t*>(exponent.data) = k;
    scale<scalar_t>(y, x, static_cast<int>(k));
  });
}

void halve_until_backward(Output dx, Input grad, Input exponent) {
  dispatch(dx.dtype, [&](auto type) {
    using scalar_t = decltype(type);
    scale<scalar_t>(dx, grad, static_cast<int>(*static_cast<const accumulation_t<scalar_t>*>(exponent.data)));
  });
}

}  // namespace pylayers::cpu::PYLAYERS_ISA
