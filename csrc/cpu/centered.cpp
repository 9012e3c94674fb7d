// y = (x − mean) · weight + bias, and its backward, with the mean along each row or over neighbouring rows, column by column.
//
// Along rows, a row is read from memory once; rows longer than the caches are summed in parts first and read again. Over rows, a
// thread takes a tile of the columns: narrow enough to stay in the cache where the rows are few; otherwise the sums are made in
// parts first, and x is read twice. Backward makes the sums of both parameters on the way.
#include "centered_columns.h"

namespace pylayers::cpu::PYLAYERS_ISA {
namespace {

enum class Weight { none, after, before };  // `before`: of the gradient, whose mean is that of grad · weight

template <class scalar_t, Weight when>
struct Row {
  using acc_t = accumulation_t<scalar_t>;
  const scalar_t *x, *weight, *bias;
  acc_t mean = 0;

  template <class Count>
  Vector<acc_t> term(int64_t col, Count count) const {
    const auto v = load(x + col, count);
    if constexpr (when == Weight::before) return v * load(weight + col, count);
    return v;
  }
  template <class Count>
  Vector<acc_t> value(int64_t col, Count count) const {
    auto v = term(col, count) - mean;
    if constexpr (when == Weight::after) {
      if (weight) v *= load(weight + col, count);
      if (bias) v += load(bias + col, count);
    }
    return v;
  }
  acc_t sum(int64_t begin, int64_t end) const {
    return row_sum<acc_t>(end - begin, [&](int64_t col, auto count) { return term(begin + col, count); });
  }
  template <class Streamed>
  void write(scalar_t* y, int64_t begin, int64_t end, Streamed streamed) const {
    for_vectors<kLanes<acc_t>>(end - begin,
                               [&](int64_t col, auto count) { put(y + begin + col, value(begin + col, count), count, streamed); });
  }
};

template <class scalar_t, Weight when>
struct Rows {
  using acc_t = accumulation_t<scalar_t>;
  Output y, mean, partial;
  Input x, weight, bias;

  Row<scalar_t, when> at(int64_t row) const { return {row_of<scalar_t>(x, row), data<scalar_t>(weight), data<scalar_t>(bias)}; }

  template <class Streamed>
  void run(int64_t row, Streamed streamed) const {
    auto one = at(row);
    one.mean = one.sum(0, x.dim()) / acc_t(x.dim());
    if (mean) data<acc_t>(mean)[row] = one.mean;
    one.write(row_of<scalar_t>(y, row), 0, x.dim(), streamed);
  }

  void run_all() const {
    if (partial) return run_split();
    parallel_for(x.rows(), kGrain / x.dim() + 1, [&](int64_t begin, int64_t end) {
      if_streamed(can_stream<scalar_t>(y), [&](auto streamed) {
        for (int64_t row = begin; row < end; ++row) run(row, streamed);
      });
    });
  }

  void run_split() const {
    const int64_t dim = x.dim(), parts = partial.dim();
    acc_t* means = data<acc_t>(mean);
    parallel_for(x.rows() * parts, kGrain * parts / dim + 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        data<acc_t>(partial)[i] = at(i / parts).sum(dim * (i % parts) / parts, dim * (i % parts + 1) / parts);
    });
    for (int64_t row = 0; row < x.rows(); ++row) {
      const acc_t* sums = row_of<acc_t>(partial, row);
      means[row] = row_sum<acc_t>(parts, [&](int64_t col, auto count) { return load(sums + col, count); }) / acc_t(dim);
    }
    const bool past_caches = can_stream<scalar_t>(y);
    for_tiles(x.rows(), dim, [&](int64_t row, int64_t begin, int64_t end) {
      auto one = at(row);
      one.mean = means[row];
      if_streamed(past_caches, [&](auto streamed) { one.write(row_of<scalar_t>(y, row), begin, end, streamed); });
    });
  }
};

// Sums for the parameters by shares of the rows, and dx of rows that are not split on the way.
template <class scalar_t, Weight when>
void backward_along(const Rows<scalar_t, when>& dx, Output dweight, Output dbias, Output partial, Input grad, Input x, Input mean) {
  using acc_t = accumulation_t<scalar_t>;
  const int64_t rows = grad.rows(), dim = grad.dim(), shares = partial.size[1];
  const bool split = dx.y && dx.partial;
  if (split) dx.run_split();
  parallel_for(shares, kGrain * shares / (rows * dim) + 1, [&](int64_t begin, int64_t end) {
    if_streamed(dx.y && can_stream<scalar_t>(dx.y), [&](auto streamed) {
      for (int64_t share = begin; share < end; ++share) {
        acc_t *sum = data<acc_t>(partial) + share * dim, *product = dweight ? sum + shares * dim : nullptr;
        std::fill(sum, sum + dim, acc_t(0));
        if (product) std::fill(product, product + dim, acc_t(0));
        for (int64_t row = rows * share / shares; row < rows * (share + 1) / shares; ++row) {
          const scalar_t *g = row_of<scalar_t>(grad, row), *from = product ? row_of<scalar_t>(x, row) : nullptr;
          for_vectors<kLanes<acc_t>>(dim, [&](int64_t col, auto count) {
            const auto v = load(g + col, count);
            store(sum + col, load(sum + col, count) + v, count);
            if (product)
              store(product + col, load(product + col, count) + v * (load(from + col, count) - data<acc_t>(mean)[row]), count);
          });
          if (dx.y && !split) dx.run(row, streamed);
        }
      }
    });
  });
  if (dbias) add_parts(data<scalar_t>(dbias), data<acc_t>(partial), shares, dim);
  if (dweight) add_parts(data<scalar_t>(dweight), data<acc_t>(partial) + shares * dim, shares, dim);
}

}  // namespace

void centered_forward(Output y, Output mean, Output partial, Input x, Input weight, Input bias, int64_t count) {
  dispatch(x.dtype, [&](auto type) {
    using scalar_t = decltype(type);
    if (count) return forward_over<scalar_t>(y, mean, partial, x, weight, bias, count);
    if (weight || bias) return Rows<scalar_t, Weight::after>{y, mean, partial, x, weight, bias}.run_all();
    Rows<scalar_t, Weight::none>{y, mean, partial, x, weight, bias}.run_all();
  });
}

void centered_backward(Output dx, Output dweight, Output dbias, Output partial, Output grad_mean, Output row_partial, Input grad,
                       Input x, Input weight, Input mean, int64_t count) {
  dispatch(grad.dtype, [&](auto type) {
    using scalar_t = decltype(type);
    if (count) return backward_over<scalar_t>(dx, dweight, dbias, partial, grad_mean, grad, x, weight, mean, count);
    const auto along = [&](const auto& rows) {
      partial ? backward_along(rows, dweight, dbias, partial, grad, x, mean) : rows.run_all();
    };
    if (weight) return along(Rows<scalar_t, Weight::before>{dx, grad_mean, row_partial, grad, weight, Input()});
    along(Rows<scalar_t, Weight::none>{dx, grad_mean, row_partial, grad, Input(), Input()});
  });
}

}  // namespace pylayers::cpu::PYLAYERS_ISA
