// y = eˣ / Σ eˣ or x − ln Σ eˣ along the middle of [outer, dim, inner], and the backward, from y.
//
// Rows are walked one after the other, as they lie in memory, twice: for what belongs to each column, which stays in the first-level
// cache, and for the output. Where there are few columns, threads take parts of the rows, and join what they found. Where the rows
// of some columns fit into the second-level cache, so do their eˣ, which are then found once.
#include <memory>

#include "norm.h"
#include "softmax.h"

namespace pylayers::cpu::PYLAYERS_ISA {
namespace {

constexpr int64_t kMost = 512;    // neighbouring columns that are worked on together
constexpr int64_t kKept = 32768;  // numbers of them that are kept

struct Tile {
  int64_t outer, column, width, begin, end;  // rows [begin, end) of the columns from `column` on
};

// One or two numbers for each column of a tile, and room for all of its numbers, or none.
template <class acc_t>
struct Found {
  acc_t *first, *second, *kept = nullptr;
};

// [outer, dim, inner] in tiles, and these in parts, as the sizes alone tell.
template <class acc_t>
class Columns {
 public:
  Columns(const Input& x, bool may_keep) : outer_(x.size[0]), dim_(x.size[1]), inner_(x.size[2]) {
    constexpr int64_t tasks = 64, few_tasks = 16, least_rows = 64, least_columns = 64;
    const int64_t all = outer_ * inner_, fitting = std::min(kKept / dim_, kMost);
    keeps_ = may_keep && fitting >= least_columns && all >= few_tasks / 2 * least_columns;
    const int64_t kept = std::min(fitting, std::max(all / few_tasks, least_columns)) / least_columns * least_columns;
    width_ = std::min(keeps_ ? kept : kMost, inner_);
    tiles_ = (inner_ + width_ - 1) / width_;
    parts_ = keeps_ ? 1 : std::clamp<int64_t>(std::min(tasks / (outer_ * tiles_), dim_ / least_rows), 1, tasks);
    if (parts_ > 1) memory_ = std::make_unique<acc_t[]>(2 * outer_ * parts_ * inner_);
  }

  // find(tile, found) for each part, join(found, more, count) vector by vector of columns, write(tile, found) with what all rows have.
  template <class Find, class Join, class Write>
  void run(const Find& find, const Join& join, const Write& write) const {
    if (parts_ > 1) each([&](const Tile& tile, int64_t part) { find(tile, found(tile, part)); });
    each([&](const Tile& tile, int64_t) {
      acc_t first[kMost], second[kMost], kept[kKept];
      const Found<acc_t> all{first, second, keeps_ ? kept : nullptr};
      if (parts_ == 1) {
        find(tile, all);
      } else {
        std::copy_n(found(tile, 0).first, tile.width, first);
        std::copy_n(found(tile, 0).second, tile.width, second);
      }
      for (int64_t part = 1; part < parts_; ++part) {
        const auto more = found(tile, part);
        for_vectors<kLanes<acc_t>>(tile.width, [&](int64_t col, auto count) {
          join(Found<acc_t>{first + col, second + col}, Found<acc_t>{more.first + col, more.second + col}, count);
        });
      }
      write(tile, all);
    });
  }

  // body(column of the tile, count, blocks) along the rows, in blocks of a few: blocks(one) calls one(offset in memory, number in the
  // tile) for each.
  template <class Body>
  void rows(const Tile& tile, int64_t begin, int64_t end, const Body& body) const {
    for_row_blocks(begin, end, [&](int64_t row, auto rows) {
      const int64_t start = (tile.outer * dim_ + row) * inner_ + tile.column;
      for_vectors<kLanes<acc_t>>(tile.width, [&](int64_t col, auto count) {
        body(col, count, [&](const auto& one) {
#pragma GCC unroll 4
          for (int r = 0; r < rows; ++r) one(start + r * inner_ + col, (row - tile.begin + r) * tile.width + col);
        });
      });
    });
  }

 private:
  Found<acc_t> found(const Tile& tile, int64_t part) const {
    acc_t* const first = memory_.get() + (tile.outer * parts_ + part) * 2 * inner_ + tile.column;
    return {first, first + inner_};
  }

  template <class Body>
  void each(const Body& body) const {
    parallel_for(outer_ * tiles_ * parts_, kGrain * parts_ / (width_ * dim_) + 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t part = i % parts_, column = i / parts_ % tiles_ * width_;
        body({i / parts_ / tiles_, column, std::min(width_, inner_ - column), dim_ * part / parts_, dim_ * (part + 1) / parts_}, part);
      }
    });
  }

  int64_t outer_, dim_, inner_, width_, tiles_, parts_;
  bool keeps_;
  std::unique_ptr<acc_t[]> memory_;
};

template <class V>
inline V shift_of(V top) {
  return top == -kInfinity<element_t<V>> ? V{} : top;
}

// The largest x of a column, and Σ e^(x − that).
template <class scalar_t, class acc_t>
struct Forward {
  const Columns<acc_t>& columns;
  const scalar_t* from;

  void find(const Tile& tile, const Found<acc_t>& own) const {
    // Rows that stay in a cache: their maximum comes first, so that sums are seldom scaled.
    const int64_t run = own.kept ? tile.end - tile.begin : 32;
    std::fill_n(own.first, tile.width, -kInfinity<acc_t>);
    std::fill_n(own.second, tile.width, acc_t(0));
    for (int64_t begin = tile.begin; begin < tile.end; begin += run) {
      const int64_t end = std::min(begin + run, tile.end);
      acc_t before[kMost];
      std::copy_n(own.first, tile.width, before);
      columns.rows(tile, begin, end, [&](int64_t col, auto count, const auto& rows) {
        auto top = load(own.first + col, count);
        rows([&](int64_t at, int64_t) { top = larger(top, load(from + at, count)); });
        store(own.first + col, top, count);
      });
      for_vectors<kLanes<acc_t>>(tile.width, [&](int64_t col, auto count) {
        const auto shift = shift_of(load(own.first + col, count));
        store(own.second + col, load(own.second + col, count) * exp_or_zero(load(before + col, count) - shift), count);
      });
      columns.rows(tile, begin, end, [&](int64_t col, auto count, const auto& rows) {
        const auto shift = shift_of(load(own.first + col, count));
        auto total = load(own.second + col, count);
        rows([&](int64_t at, int64_t number) {
          const auto power = exp_or_zero(load(from + at, count) - shift);
          if (own.kept) store(own.kept + number, power, count);
          total += power;
        });
        store(own.second + col, total, count);
      });
    }
  }

  template <class Count>
  void join(const Found<acc_t>& own, const Found<acc_t>& more, Count count) const {
    const auto top = load(own.first, count), other = load(more.first, count), both = larger(top, other), shift = shift_of(both);
    const auto total = load(own.second, count) * exp_or_zero(top - shift) + load(more.second, count) * exp_or_zero(other - shift);
    store(own.first, both, count);
    store(own.second, total, count);
  }

  void write(scalar_t* to, const Tile& tile, const Found<acc_t>& own, bool log) const {
    for_vectors<kLanes<acc_t>>(tile.width, [&](int64_t col, auto count) {
      auto total = load(own.second + col, count);
      if (log) {
        for (int i = 0; i < kLanes<acc_t>; ++i) total[i] = std::log(total[i]);
      } else {
        total = 1 / total;  // 0, where there is nothing but −inf, comes to nan
      }
      store(own.first + col, shift_of(load(own.first + col, count)), count);
      store(own.second + col, total, count);
    });
    columns.rows(tile, tile.begin, tile.end, [&](int64_t col, auto count, const auto& rows) {
      const auto shift = load(own.first + col, count), rest = load(own.second + col, count);
      rows([&](int64_t at, int64_t number) {
        if (own.kept) return store(to + at, load(own.kept + number, count) * rest, count);
        const auto score = load(from + at, count) - shift;
        store(to + at, log ? score - rest : exp_or_zero(score) * rest, count);
      });
    });
  }
};

// One number alone: 1, or its logarithm, and nan of what is not finite.
template <class scalar_t>
void of_single_numbers(Output y, Input x, bool log) {
  using acc_t = accumulation_t<scalar_t>;
  for_tiles(1, x.size[0] * x.size[2], [&](int64_t, int64_t begin, int64_t end) {
    for_vectors<kLanes<acc_t>>(end - begin, [&](int64_t col, auto count) {
      const auto own = load(static_cast<const scalar_t*>(x.data) + begin + col, count);
      store(static_cast<scalar_t*>(y.data) + begin + col, (own - own) + acc_t(log ? 0 : 1), count);
    });
  });
}

template <class scalar_t>
void columns_forward(Output y, Input x, bool log) {
  using acc_t = accumulation_t<scalar_t>;
  if (x.size[1] == 1) return of_single_numbers<scalar_t>(y, x, log);
  const Columns<acc_t> columns(x, !log);
  const Forward<scalar_t, acc_t> step{columns, static_cast<const scalar_t*>(x.data)};
  columns.run([&](const Tile& tile, const auto& own) { step.find(tile, own); },
              [&](const auto& own, const auto& more, auto count) { step.join(own, more, count); },
              [&](const Tile& tile, const auto& own) { step.write(static_cast<scalar_t*>(y.data), tile, own, log); });
}

template <class scalar_t>
void columns_backward(Output dx, Input grad, Input y, bool log) {
  using acc_t = accumulation_t<scalar_t>;
  const Columns<acc_t> columns(y, false);
  const scalar_t *g = static_cast<const scalar_t*>(grad.data), *from = static_cast<const scalar_t*>(y.data);
  scalar_t* const to = static_cast<scalar_t*>(dx.data);
  const auto find_dots = [&](const Tile& tile, const Found<acc_t>& own) {
    std::fill_n(own.first, tile.width, acc_t(0));
    columns.rows(tile, tile.begin, tile.end, [&](int64_t col, auto count, const auto& rows) {
      auto dot = load(own.first + col, count);
      rows([&](int64_t at, int64_t) { dot += log ? load(g + at, count) : load(g + at, count) * load(from + at, count); });
      store(own.first + col, dot, count);
    });
  };
  const auto join = [](const Found<acc_t>& own, const Found<acc_t>& more, auto count) {
    store(own.first, load(own.first, count) + load(more.first, count), count);
  };
  columns.run(find_dots, join, [&](const Tile& tile, const Found<acc_t>& own) {
    columns.rows(tile, tile.begin, tile.end, [&](int64_t col, auto count, const auto& rows) {
      const auto dot = load(own.first + col, count);
      rows([&](int64_t at, int64_t) {
        const auto incoming = load(g + at, count), out = load(from + at, count);
        store(to + at, log ? incoming - exp_or_zero(out) * dot : out * (incoming - dot), count);
      });
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
