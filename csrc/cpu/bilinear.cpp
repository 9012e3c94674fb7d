// z = left ⊗ right per row, and the sums over either factor of such a block: what stands between the matrix products.
//
// Blocks are made and used up while they are in the second-level cache. Four of the vectors that z holds for a row are summed at a
// time, so that the sums over them are read and written once for four.
#include "rows.h"

namespace pylayers::cpu::PYLAYERS_ISA {
namespace {

constexpr int kAtOnce = 4;

template <class scalar_t>
void outer(Output z, Input left, Input right) {
  using acc_t = accumulation_t<scalar_t>;
  const int64_t count = left.dim(), dim = right.dim();
  parallel_for(z.rows(), kGrain / (count * dim) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const scalar_t *l = row_of<scalar_t>(left, row), *r = row_of<scalar_t>(right, row);
      for (int64_t a = 0; a < count; ++a) {
        const auto factor = splat<acc_t>(load(l + a, 1)[0]);
        scalar_t* to = row_of<scalar_t>(z, row) + a * dim;
        for_vectors<kLanes<acc_t>>(dim, [&](int64_t col, auto n) { store(to + col, factor * load(r + col, n), n); });
      }
    }
  });
}

template <class scalar_t>
struct Contraction {
  using acc_t = accumulation_t<scalar_t>;
  const scalar_t *z, *left, *right, *bias;
  scalar_t* left_sum;
  acc_t* right_sum;
  int64_t count, dim;

  // Of `many` vectors of z, from number a on.
  template <int many, bool sums_left, bool sums_right>
  void some(int64_t a) const {
    Vector<acc_t> dots[many] = {}, factors[many];
    for (int i = 0; i < many; ++i) factors[i] = sums_right ? splat<acc_t>(load(left + a + i, 1)[0]) : Vector<acc_t>{};
    for_vectors<kLanes<acc_t>>(dim, [&](int64_t col, auto n) {
      Vector<acc_t> values[many];
      for (int i = 0; i < many; ++i) values[i] = load(z + (a + i) * dim + col, n);
      if constexpr (sums_left) {
        const auto r = load(right + col, n);
        for (int i = 0; i < many; ++i) dots[i] += values[i] * r;
      }
      if constexpr (sums_right) {
        auto total = load(right_sum + col, n);
        for (int i = 0; i < many; ++i) total += values[i] * factors[i];
        store(right_sum + col, total, n);
      }
    });
    if constexpr (sums_left) {
      for (int i = 0; i < many; ++i) {
        const acc_t own = bias ? load(bias + a + i, 1)[0] : acc_t(0);
        store(left_sum + a + i, splat<acc_t>(sum<acc_t>(dots[i]) + own), 1);
      }
    }
  }

  template <bool sums_left, bool sums_right>
  void all() const {
    int64_t a = 0;
    for (; a + kAtOnce <= count; a += kAtOnce) some<kAtOnce, sums_left, sums_right>(a);
    for (; a < count; ++a) some<1, sums_left, sums_right>(a);
  }
};

template <class scalar_t>
void contract(Output left_sum, Output right_sum, Input before, Input z, Input left, Input right, Input bias) {
  using acc_t = accumulation_t<scalar_t>;
  const int64_t count = left ? left.dim() : z.dim() / right.dim(), dim = z.dim() / count;
  parallel_for(z.rows(), kGrain / z.dim() + 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      acc_t* total = right_sum ? row_of<acc_t>(right_sum, row) : nullptr;
      if (total && !before) std::fill(total, total + dim, acc_t(0));
      if (total && before && before.data != right_sum.data) std::copy_n(row_of<acc_t>(before, row), dim, total);
      const Contraction<scalar_t> one{row_of<scalar_t>(z, row),
                                      left ? row_of<scalar_t>(left, row) : nullptr,
                                      right ? row_of<scalar_t>(right, row) : nullptr,
                                      static_cast<const scalar_t*>(bias.data),
                                      left_sum ? row_of<scalar_t>(left_sum, row) : nullptr,
                                      total,
                                      count,
                                      dim};
      if (left_sum && total) {
        one.template all<true, true>();
      } else if (total) {
        one.template all<false, true>();
      } else {
        one.template all<true, false>();
      }
    }
  });
}

}  // namespace

void bilinear_outer(Output z, Input left, Input right) {
  dispatch(z.dtype, [&](auto type) { outer<decltype(type)>(z, left, right); });
}

void bilinear_contract(Output left_sum, Output right_sum, Input before, Input z, Input left, Input right, Input bias) {
  dispatch(z.dtype, [&](auto type) { contract<decltype(type)>(left_sum, right_sum, before, z, left, right, bias); });
}

}  // namespace pylayers::cpu::PYLAYERS_ISA
