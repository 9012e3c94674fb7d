// y = n · (offset + weight) + bias, n = (x − mean) · rstd, rstd = 1 / √(mean((x − mean)²) + eps), and its backward. The mean is
// that of the row, or 0 where a kind of norm is not centred; x may be the sum of two matrices, which is then an output too.
//
// Threads share the rows. A row is read from memory once: the later passes over it find it in the first-level or second-level
// cache. The gradients of weight and bias are summed per part of the rows, then over the parts in order.
#pragma once

#include <cmath>

#include "pairs.h"

namespace pylayers::cpu::PYLAYERS_ISA {

// scalar: of x, y, weight and bias; row: what is normalised, x or its rounded sum with the residual.
template <class scalar, class row, bool subtract_mean, bool add>
struct Norm {
  using scalar_t = scalar;
  using row_t = row;
  using acc_t = accumulation_t<scalar>;
  static constexpr bool centred = subtract_mean, adds = add;
};

struct NormForward {
  Output y, total, mean, rstd;
  Input x, residual, weight, bias;
  double eps, offset;
};

struct NormBackward {
  Output dx, dresidual, dweight, dbias, partial;
  Input grad, dtotal, x, weight, mean, rstd;  // x is what was normalised
  double offset;
};

template <class scalar_t>
struct Scale {  // offset + weight, or 1
  using acc_t = accumulation_t<scalar_t>;
  const scalar_t* weight;
  acc_t offset;

  Scale(Input weight, double offset) : weight(static_cast<const scalar_t*>(weight.data)), offset(offset) {}

  template <class Count>
  auto operator()(int64_t col, Count count) const {
    using V = decltype(load(weight + col, count));
    return weight ? load(weight + col, count) + offset : V{} + acc_t(1);
  }
};

template <class acc_t>
struct Statistics {
  acc_t mean, rstd;
};

// What the first pass over a row adds up: its numbers where the mean is subtracted, or their squares.
template <class Norm, class V>
inline V first_term(V v) {
  if constexpr (Norm::centred) return v;
  return v * v;
}

template <class Norm>
inline Statistics<typename Norm::acc_t> statistics(const typename Norm::row_t* from, int64_t dim, double eps,
                                                   typename Norm::acc_t first_sum) {
  using acc_t = typename Norm::acc_t;
  acc_t mean = 0, squares = first_sum;
  if constexpr (Norm::centred) {
    mean = first_sum / acc_t(dim);
    squares = sum_of_columns<typename Norm::row_t>(dim, [&](int64_t col, auto count) {
      const auto v = first_lanes(load(from + col, count) - mean, count);
      return v * v;
    });
  }
  return {mean, 1 / std::sqrt(squares / acc_t(dim) + acc_t(eps))};
}

// The sum of the row of x and that of residual, which has the dtype of x or acc, to `to`, and its Σ first_term.
template <class Norm>
inline typename Norm::acc_t add_row(typename Norm::row_t* to, const NormForward& args, int64_t row) {
  using scalar_t = typename Norm::scalar_t;
  using acc_t = typename Norm::acc_t;
  const auto add = [&](const scalar_t* a, const auto* b) {
    using residual_t = std::remove_cv_t<std::remove_pointer_t<decltype(b)>>;
    return sum_of_columns<columns_of<scalar_t, residual_t, typename Norm::row_t>>(args.x.dim(), [&](int64_t col, auto count) {
      return first_term<Norm>(store_and_load(to + col, load(a + col, count) + load(b + col, count), count));
    });
  };
  const auto* a = row_of<scalar_t>(args.x, row);
  if constexpr (!std::is_same_v<scalar_t, acc_t>) {
    if (args.residual.dtype != args.x.dtype) return add(a, row_of<acc_t>(args.residual, row));
  }
  return add(a, row_of<scalar_t>(args.residual, row));
}

// Rows are finished four at a time: what belongs to a column is then read once for all of them.
inline constexpr int kRowsAtOnce = 4;

// body(row, std::integral_constant<int, count>) for blocks of kRowsAtOnce rows and then for single ones.
template <class Body>
inline void for_row_blocks(int64_t begin, int64_t end, const Body& body) {
  int64_t row = begin;
  for (; row + kRowsAtOnce <= end; row += kRowsAtOnce) body(row, std::integral_constant<int, kRowsAtOnce>());
  for (; row < end; ++row) body(row, std::integral_constant<int, 1>());
}

// What is normalised of some rows, and what is yet to be written of them.
template <class Norm, int rows>
struct ForwardRows {
  using scalar_t = typename Norm::scalar_t;
  using row_t = typename Norm::row_t;
  using acc_t = typename Norm::acc_t;
  const row_t* from[rows];
  scalar_t* to[rows];
  Statistics<acc_t> of[rows];

  ForwardRows(const NormForward& args, int64_t first) {
    const int64_t dim = args.x.dim();
    for (int i = 0; i < rows; ++i) {
      const int64_t row = first + i;
      to[i] = row_of<scalar_t>(args.y, row);
      acc_t first_sum;
      if constexpr (Norm::adds) {
        first_sum = add_row<Norm>(row_of<row_t>(args.total, row), args, row);
        from[i] = row_of<row_t>(args.total, row);
      } else {
        const row_t* own = from[i] = row_of<row_t>(args.x, row);
        first_sum = sum_of_columns<row_t>(dim, [&](int64_t col, auto count) { return first_term<Norm>(load(own + col, count)); });
      }
      of[i] = statistics<Norm>(from[i], dim, args.eps, first_sum);
      if (args.mean) static_cast<acc_t*>(args.mean.data)[row] = of[i].mean;
      if (args.rstd) static_cast<acc_t*>(args.rstd.data)[row] = of[i].rstd;
    }
  }

  void write(const NormForward& args) const {
    const Scale<scalar_t> scale(args.weight, args.offset);
    const auto* bias = static_cast<const scalar_t*>(args.bias.data);
    for_columns<columns_of<scalar_t, row_t>>(args.x.dim(), [&](int64_t col, auto count) {
      const auto w = scale(col, count), b = bias ? load(bias + col, count) : decltype(w){};
#pragma GCC unroll 4
      for (int i = 0; i < rows; ++i) store(to[i] + col, (load(from[i] + col, count) - of[i].mean) * of[i].rstd * w + b, count);
    });
  }
};

template <class Norm>
void norm_forward(const NormForward& args) {
  parallel_for(args.x.rows(), kGrain / args.x.dim() + 1, [&](int64_t begin, int64_t end) {
    for_row_blocks(begin, end, [&](int64_t row, auto rows) { ForwardRows<Norm, decltype(rows)::value>(args, row).write(args); });
  });
}

template <class Norm, int rows>
struct BackwardRows {
  using scalar_t = typename Norm::scalar_t;
  using row_t = typename Norm::row_t;
  using acc_t = typename Norm::acc_t;
  const int64_t dim;
  const Scale<scalar_t> scale;
  const scalar_t* grad[rows];
  const row_t *x[rows], *dtotal[rows];
  scalar_t* dx[rows];
  acc_t* dresidual[rows];
  acc_t mean[rows], rstd[rows];
  acc_t slope[rows] = {}, shift[rows] = {};  // rstd² · mean(g · (x − mean)) and mean(g), g = grad · w

  BackwardRows(const NormBackward& args, int64_t first) : dim(args.x.dim()), scale(args.weight, args.offset) {
    for (int i = 0; i < rows; ++i) {
      const int64_t row = first + i;
      grad[i] = row_of<scalar_t>(args.grad, row);
      x[i] = row_of<row_t>(args.x, row);
      dtotal[i] = args.dtotal ? row_of<row_t>(args.dtotal, row) : nullptr;
      dx[i] = args.dx ? row_of<scalar_t>(args.dx, row) : nullptr;
      dresidual[i] = args.dresidual ? row_of<acc_t>(args.dresidual, row) : nullptr;
      mean[i] = Norm::centred ? static_cast<const acc_t*>(args.mean.data)[row] : 0;
      rstd[i] = static_cast<const acc_t*>(args.rstd.data)[row];
    }
  }

  void find_means() {
    Vector<acc_t> products[rows] = {}, sums[rows] = {};
    for_vectors<kLanes<acc_t>>(dim, [&](int64_t col, auto count) {
      const auto w = scale(col, count);
#pragma GCC unroll 4
      for (int i = 0; i < rows; ++i) {
        const auto g = load(grad[i] + col, count) * w;
        products[i] += g * (load(x[i] + col, count) - mean[i]);
        if constexpr (Norm::centred) sums[i] += g;
      }
    });
    for (int i = 0; i < rows; ++i) {
      slope[i] = sum<acc_t>(products[i]) / acc_t(dim) * rstd[i] * rstd[i];
      shift[i] = sum<acc_t>(sums[i]) / acc_t(dim);
    }
  }

  // The gradients of these rows, and what they add to the sums, where these are wanted.
  void write(acc_t* dweight, acc_t* dbias) const {
    for_vectors<kLanes<acc_t>>(dim, [&](int64_t col, auto count) {
      const auto w = scale(col, count);
      Vector<acc_t> by_weight = {}, by_bias = {};  // of these rows: a sum of sums rounds less
#pragma GCC unroll 4
      for (int i = 0; i < rows; ++i) {
        const auto g = load(grad[i] + col, count), away = load(x[i] + col, count) - mean[i];
        by_weight += g * (away * rstd[i]);
        if constexpr (Norm::centred) by_bias += g;
        auto d = (rounded(g * w) - shift[i] - away * slope[i]) * rstd[i];
        if (Norm::adds && dtotal[i]) d += load(dtotal[i] + col, count);
        if (dx[i]) store(dx[i] + col, d, count);
        if (Norm::adds && dresidual[i]) store(dresidual[i] + col, d, count);
      }
      if (dweight) store(dweight + col, load(dweight + col, count) + by_weight, count);
      if (Norm::centred && dbias) store(dbias + col, load(dbias + col, count) + by_bias, count);
    });
  }
};

template <class Norm>
void norm_backward(const NormBackward& args) {
  using scalar_t = typename Norm::scalar_t;
  using acc_t = typename Norm::acc_t;
  const int64_t rows = args.x.rows(), dim = args.x.dim();
  Output sums[2];
  int count = 0;
  for (const Output& sum : {args.dweight, args.dbias})
    if (sum) sums[count++] = sum;
  const int64_t second = count == 2 ? args.partial.rows() / 2 * dim : 0;  // from the parts of dweight to those of dbias
  const auto range = [&](acc_t* sum, int64_t begin, int64_t end) {
    for_row_blocks(begin, end, [&](int64_t row, auto at_once) {
      BackwardRows<Norm, decltype(at_once)::value> own(args, row);
      if (args.dx || args.dresidual) own.find_means();
      own.write(args.dweight ? sum : nullptr, args.dbias ? sum + second : nullptr);
    });
  };
  if (count) return sums_over_rows<scalar_t>(sums, count, args.partial, rows, range);
  parallel_for(rows, kGrain / dim + 1, [&](int64_t begin, int64_t end) { range(nullptr, begin, end); });
}

// body(Norm()) for the dtypes of x and of its sum with the residual, which may be float where x has 16 bits.
template <bool centred, class Body>
inline void dispatch_added(Dtype own, Dtype total, const Body& body) {
  dispatch(own, [&](auto type) {
    using scalar_t = decltype(type);
    if constexpr (sizeof(scalar_t) == 2) {
      if (total != own) return body(Norm<scalar_t, float, centred, true>());
    }
    body(Norm<scalar_t, scalar_t, centred, true>());
  });
}

template <bool centred>
inline void add_norm_forward(const NormForward& args) {
  dispatch_added<centred>(args.x.dtype, args.total.dtype, [&](auto norm) { norm_forward<decltype(norm)>(args); });
}

template <bool centred>
inline void add_norm_backward(const NormBackward& args) {
  dispatch_added<centred>(args.grad.dtype, args.x.dtype, [&](auto norm) { norm_backward<decltype(norm)>(args); });
}

}  // namespace pylayers::cpu::PYLAYERS_ISA
