// z = the upper triangle of x ⊗ x for some rows of the triangle, and dx from the gradient of such a block.
//
// A row of the triangle is a vector that ends where the next one begins: the loads and stores lie as they come.
#include "rows.h"

namespace pylayers::cpu::PYLAYERS_ISA {
namespace {

template <class scalar_t>
void outer(Output z, Input x, int64_t first, int64_t last) {
  using acc_t = accumulation_t<scalar_t>;
  const int64_t dim = x.dim();
  parallel_for(z.rows(), kGrain / z.dim() + 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const scalar_t* from = row_of<scalar_t>(x, row);
      scalar_t* to = row_of<scalar_t>(z, row);
      for (int64_t i = first; i < last; to += dim - i, ++i) {
        const auto factor = splat<acc_t>(load(from + i, 1)[0]);
        for_vectors<kLanes<acc_t>>(dim - i, [&](int64_t col, auto n) { store(to + col, factor * load(from + i + col, n), n); });
      }
    }
  });
}

template <class scalar_t>
void contract(Output dx, Input before, Input z, Input x, int64_t first, int64_t last) {
  using acc_t = accumulation_t<scalar_t>;
  const int64_t dim = x.dim();
  parallel_for(z.rows(), kGrain / z.dim() + 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const scalar_t *from = row_of<scalar_t>(x, row), *g = row_of<scalar_t>(z, row);
      acc_t* total = row_of<acc_t>(dx, row);
      if (!before) std::fill(total, total + dim, acc_t(0));
      if (before && before.data != dx.data) std::copy_n(row_of<acc_t>(before, row), dim, total);
      for (int64_t i = first; i < last; g += dim - i, ++i) {
        const auto factor = splat<acc_t>(load(from + i, 1)[0]);
        Vector<acc_t> dot = {};
        for_vectors<kLanes<acc_t>>(dim - i, [&](int64_t col, auto n) {
          const auto value = load(g + col, n);
          dot += value * load(from + i + col, n);
          store(total + i + col, load(total + i + col, n) + value * factor, n);
        });
        total[i] += sum<acc_t>(dot);
      }
    }
  });
}

}  // namespace

void tensor_reduction_outer(Output z, Input x, int64_t first, int64_t last) {
  dispatch(z.dtype, [&](auto type) { outer<decltype(type)>(z, x, first, last); });
}

void tensor_reduction_contract(Output dx, Input before, Input z, Input x, int64_t first, int64_t last) {
  dispatch(z.dtype, [&](auto type) { contract<decltype(type)>(dx, before, z, x, first, last); });
}

}  // namespace pylayers::cpu::PYLAYERS_ISA
