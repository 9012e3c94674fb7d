// y = eˣ / Σ eˣ or x − ln Σ eˣ along the middle of [outer, dim, inner], and the backward, from y.
//
// Threads share tiles of neighbouring columns, narrow enough that the second pass over them finds them in the caches. Forward has a
// running maximum for each column.
#include "softmax.h"

namespace pylayers::cpu::PYLAYERS_ISA {
namespace {

// Neighbouring columns that are worked on together: as many as let a second pass find them in the caches.
struct Columns {
  static constexpr int64_t most = 256, numbers = 65536;
  int64_t outer, dim, inner, width;
  explicit Columns(const Input& x) : outer(x.size[0]), dim(x.size[1]), inner(x.size[2]) {
    width = std::min(std::max<int64_t>(numbers / dim / 16 * 16, 16), std::min(most, inner));
  }

  // body(offset of the first column, number of columns) in parallel.
  template <class Body>
  void each(const Body& body) const {
    const int64_t tiles = (inner + width - 1) / width;
    parallel_for(outer * tiles, kGrain / (width * dim) + 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t start = i % tiles * width;
        body(i / tiles * dim * inner + start, std::min(width, inner - start));
      }
    });
  }
};

// Eight rows at a time: then the exponential that goes on to a larger maximum is one in nine.
template <class scalar_t, class acc_t, class Count>
inline void add_to_columns(const scalar_t* from, int64_t rows, int64_t inner, acc_t* shifts, acc_t* totals, Count count) {
  constexpr int64_t at_once = 8;
  const auto none = splat(-kInfinity<acc_t>);
  Vector<acc_t> top = none, total{};
  for (int64_t row = 0; row < rows; row += at_once) {
    const int64_t more = std::min(at_once, rows - row);
    Vector<acc_t> x[at_once], next = top;
    for (int64_t i = 0; i < more; ++i) next = larger(next, x[i] = load(from + (row + i) * inner, count));
    const auto shift = next == none ? Vector<acc_t>{} : next;
    total = total * exp_or_zero(top - shift);
    for (int64_t i = 0; i < more; ++i) total += exp_or_zero(x[i] - shift);
    top = next;
  }
  store(shifts, top == none ? Vector<acc_t>{} : top, count);
  store(totals, total, count);
}

template <class scalar_t>
void columns_forward(Output y, Input x, bool log) {
  using acc_t = accumulation_t<scalar_t>;
  const Columns columns(x);
  const int64_t inner = columns.inner;
  columns.each([&](int64_t offset, int64_t width) {
    const scalar_t* from = static_cast<const scalar_t*>(x.data) + offset;
    scalar_t* to = static_cast<scalar_t*>(y.data) + offset;
    acc_t shifts[Columns::most], totals[Columns::most];
    for_vectors<kLanes<acc_t>>(width, [&](int64_t col, auto count) {
      add_to_columns(from + col, columns.dim, inner, shifts + col, totals + col, count);
    });
    acc_t* rest = totals;  // with log subtracted too, else multiplied by
    for (int64_t col = 0; col < width; ++col) {
      const acc_t total = totals[col];
      rest[col] = log ? std::log(total) : total == 0 ? std::numeric_limits<acc_t>::quiet_NaN() : 1 / total;
    }
    for (int64_t row = 0; row < columns.dim; ++row) {
      for_vectors<kLanes<acc_t>>(width, [&](int64_t col, auto count) {
        const auto score = load(from + row * inner + col, count) - load(shifts + col, count);
        const auto r = load(rest + col, count);
        store(to + row * inner + col, log ? score - r : exp_or_zero(score) * r, count);
      });
    }
  });
}

template <class scalar_t>
void columns_backward(Output dx, Input grad, Input y, bool log) {
  using acc_t = accumulation_t<scalar_t>;
  const Columns columns(y);
  const int64_t inner = columns.inner;
  columns.each([&](int64_t offset, int64_t width) {
    const scalar_t *g = static_cast<const scalar_t*>(grad.data) + offset, *from = static_cast<const scalar_t*>(y.data) + offset;
    scalar_t* to = static_cast<scalar_t*>(dx.data) + offset;
    acc_t dots[Columns::most] = {};
    const auto each = [&](auto&& body) {
      for (int64_t row = 0; row < columns.dim; ++row)
        for_vectors<kLanes<acc_t>>(width, [&](int64_t col, auto count) { body(row * inner + col, dots + col, count); });
    };
    each([&](int64_t at, acc_t* dot, auto count) {
      const auto incoming = load(g + at, count);
      store(dot, load(dot, count) + (log ? incoming : incoming * load(from + at, count)), count);
    });
    each([&](int64_t at, const acc_t* dot, auto count) {
      const auto incoming = load(g + at, count), out = load(from + at, count), sum = load(dot, count);
      store(to + at, log ? incoming - exp_or_zero(out) * sum : out * (incoming - sum), count);
    });
  });
}

}  // namespace

void softmax_columns_forward(Output y, Input x, int64_t log) {
  dispatch(x.dtype, [&](auto type) { columns_forward<decltype(type)>(y, x, log); });
}

void softmax_columns_backward(Output dx, Input grad, Input y, int64_t log) {
  dispatch(y.dtype, [&](auto type) { columns_backward<decltype(type)>(dx, grad, y, log); });
}

}  // namespace pylayers::cpu::PYLAYERS_ISA
