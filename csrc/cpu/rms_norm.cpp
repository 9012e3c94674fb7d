// y = x · rstd · (offset + weight), rstd = 1 / √(mean(x²) + eps), and its backward.
//
// Threads share the rows. A row is read from memory once: the second pass over it finds it in the first-level or second-level
// cache. The weight gradient is summed per part of the rows, then over the parts in order.
#include <cmath>

#include "rows.h"

namespace pylayers::cpu::PYLAYERS_ISA {
namespace {

template <class scalar_t, bool weighted>
struct Scale {  // offset + weight, or 1
  using acc_t = accumulation_t<scalar_t>;
  const scalar_t* weight;
  acc_t offset;

  Scale(Input weight, double offset) : weight(static_cast<const scalar_t*>(weight.data)), offset(offset) {}

  template <class Count>
  Vector<acc_t> operator()(int64_t col, Count count) const {
    if constexpr (weighted) return load(weight + col, count) + offset;
    return splat(acc_t(1));
  }
};

template <class scalar_t, bool weighted>
void forward(Output y, Output rstd, Input x, Input weight, double eps, double offset) {
  using acc_t = accumulation_t<scalar_t>;
  const int64_t dim = x.dim();
  const Scale<scalar_t, weighted> scale(weight, offset);
  const auto one_row = [&](int64_t row, auto streamed) {
    const scalar_t* from = row_of<scalar_t>(x, row);
    scalar_t* to = row_of<scalar_t>(y, row);
    const acc_t squares = row_sum<acc_t>(dim, [&](int64_t col, auto count) {
      const auto v = load(from + col, count);
      return v * v;
    });
    const acc_t r = 1 / std::sqrt(squares / acc_t(dim) + acc_t(eps));
    if (rstd) static_cast<acc_t*>(rstd.data)[row] = r;
    for_vectors<kLanes<acc_t>>(
        dim, [&](int64_t col, auto count) { put(to + col, load(from + col, count) * r * scale(col, count), count, streamed); });
  };
  parallel_for(x.rows(), kGrain / dim + 1, [&](int64_t begin, int64_t end) {
    if_streamed(can_stream<scalar_t>(y), [&](auto streamed) {
      for (int64_t row = begin; row < end; ++row) one_row(row, streamed);
    });
  });
}

template <class scalar_t, bool weighted>
void backward(Output dx, Output dweight, Output partial, Input grad, Input x, Input weight, Input rstd, double offset) {
  using acc_t = accumulation_t<scalar_t>;
  const int64_t rows = x.rows(), dim = x.dim();
  const Scale<scalar_t, weighted> scale(weight, offset);

  const auto add_to_sum = [&](acc_t* sum, const scalar_t* g, const scalar_t* from, acc_t r) {
    for_vectors<kLanes<acc_t>>(dim, [&](int64_t col, auto count) {
      store(sum + col, load(sum + col, count) + load(g + col, count) * (load(from + col, count) * r), count);
    });
  };
  const auto write_dx = [&](scalar_t* to, const scalar_t* g, const scalar_t* from, acc_t r, auto streamed) {
    const acc_t dot = row_sum<acc_t>(
        dim, [&](int64_t col, auto count) { return load(g + col, count) * scale(col, count) * (load(from + col, count) * r); });
    const acc_t mean = dot / acc_t(dim);
    for_vectors<kLanes<acc_t>>(dim, [&](int64_t col, auto count) {
      const auto n = load(from + col, count) * r;
      put(to + col, (load(g + col, count) * scale(col, count) - n * mean) * r, count, streamed);
    });
  };
  const auto range = [&](acc_t* sum, int64_t begin, int64_t end) {
    if_streamed(can_stream<scalar_t>(dx), [&](auto streamed) {
      for (int64_t row = begin; row < end; ++row) {
        const scalar_t *g = row_of<scalar_t>(grad, row), *from = row_of<scalar_t>(x, row);
        const acc_t r = static_cast<const acc_t*>(rstd.data)[row];
        if (sum) add_to_sum(sum, g, from, r);
        if (dx) write_dx(row_of<scalar_t>(dx, row), g, from, r, streamed);
      }
    });
  };
  if (dweight) return sum_over_rows<scalar_t>(dweight, partial, rows, range);
  parallel_for(rows, kGrain / dim + 1, [&](int64_t begin, int64_t end) { range(nullptr, begin, end); });
}

}  // namespace

void rms_norm_forward(Output y, Output rstd, Input x, Input weight, double eps, double offset) {
  dispatch(x.dtype, [&](auto type) {
    using scalar_t = decltype(type);
    (weight ? forward<scalar_t, true> : forward<scalar_t, false>)(y, rstd, x, weight, eps, offset);
  });
}

void rms_norm_backward(Output dx, Output dweight, Output partial, Input grad, Input x, Input weight, Input rstd, double offset) {
  dispatch(x.dtype, [&](auto type) {
    using scalar_t = decltype(type);
    (weight ? backward<scalar_t, true> : backward<scalar_t, false>)(dx, dweight, partial, grad, x, weight, rstd, offset);
  });
}

}  // namespace pylayers::cpu::PYLAYERS_ISA
