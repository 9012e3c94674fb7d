// Means over neighbouring rows, column by column, for centered.cpp.
#pragma once

#include "rows.h"

namespace pylayers::cpu::PYLAYERS_ISA {
namespace {

constexpr int64_t kTile = 2048, kCacheElements = 65536;

template <class scalar_t>
const scalar_t* data(const Input& x) { return static_cast<const scalar_t*>(x.data); }
template <class scalar_t>
scalar_t* data(const Output& y) { return static_cast<scalar_t*>(y.data); }

// `count` rows share a mean. Narrow rows without gaps are walked `fold` at a time, as one row.
struct Columns {
  int64_t means, count, dim, fold, width, tiles;  // width: columns of a tile

  Columns(int64_t rows, int64_t dim, int64_t count, bool flat, bool held)
      : means(rows / count), count(count), dim(dim), fold(flat && dim < 64 ? std::min(count, 128 / dim) : 1) {
    const int64_t fits = held ? std::clamp<int64_t>(kCacheElements / count / 64 * 64, 64, kTile) : kTile;
    width = fold > 1 ? dim : std::min(dim, fits);
    tiles = (dim + width - 1) / width;
  }
  int64_t begin(int64_t tile) const { return tile * width; }
  int64_t columns(int64_t tile) const { return std::min(dim - tile * width, width); }
};

// body(row, columns) for the rows [first, last), by `fold`: what remains are fewer columns.
template <class Body>
void for_folded(int64_t first, int64_t last, int64_t columns, int64_t fold, const Body& body) {
  for (; first + fold <= last; first += fold) body(first, columns * fold);
  if (first < last) body(first, columns * (last - first));
}

// sum[columns] = Σ_rows term(row, col, count), four rows at a time. `sum` has room for `fold` times as many.
template <class acc_t, class Term>
void sum_rows(acc_t* sum, int64_t first, int64_t last, int64_t columns, int64_t fold, const Term& term) {
  std::fill(sum, sum + columns * fold, acc_t(0));
  for (; first + 4 * fold <= last; first += 4 * fold) {
    for_vectors<kLanes<acc_t>>(columns * fold, [&](int64_t col, auto count) {
      const auto low = term(first, col, count) + term(first + fold, col, count);
      const auto high = term(first + 2 * fold, col, count) + term(first + 3 * fold, col, count);
      store(sum + col, load(sum + col, count) + (low + high), count);
    });
  }
  for_folded(first, last, columns, fold, [&](int64_t row, int64_t across) {
    for_vectors<kLanes<acc_t>>(
        across, [&](int64_t col, auto count) { store(sum + col, load(sum + col, count) + term(row, col, count), count); });
  });
  for (int64_t i = columns; i < columns * fold; ++i) sum[i % columns] += sum[i];
}

// What belongs to the columns of a tile, `fold` times in a row.
template <class scalar_t>
struct TileVectors {
  using acc_t = accumulation_t<scalar_t>;
  acc_t mean[kTile], weight[kTile], bias[kTile];

  TileVectors(const Input& w, const Input& b, int64_t begin, int64_t columns, int64_t fold) {
    fill(weight, w, begin, columns, fold, acc_t(1));
    fill(bias, b, begin, columns, fold, acc_t(0));
  }
  static void fill(acc_t* to, const Input& from, int64_t begin, int64_t columns, int64_t fold, acc_t otherwise) {
    if (!from) return std::fill(to, to + columns * fold, otherwise);
    const int64_t features = from.dim();
    for (int64_t col = 0; col < columns;) {
      const int64_t start = (begin + col) % features, some = std::min(features - start, columns - col);
      for_vectors<kLanes<acc_t>>(
          some, [&](int64_t i, auto count) { store(to + col + i, load(data<scalar_t>(from) + start + i, count), count); });
      col += some;
    }
    repeat(to, columns, fold);
  }
  static void repeat(acc_t* numbers, int64_t columns, int64_t fold) {
    for (int64_t i = columns; i < columns * fold; ++i) numbers[i] = numbers[i - columns];
  }
  void set_mean(const acc_t* from, int64_t columns, int64_t fold, acc_t factor = 1) {
    for (int64_t i = 0; i < columns; ++i) mean[i] = from[i] * factor;
    repeat(mean, columns, fold);
  }
};

template <class scalar_t>
struct OverRows {
  using acc_t = accumulation_t<scalar_t>;
  Columns columns;
  Output y;  // may be left out
  Input x, weight, bias;

  auto terms(int64_t begin) const {
    return [this, begin](int64_t row, int64_t col, auto count) { return load(row_of<scalar_t>(x, row) + begin + col, count); };
  }

  void write(const TileVectors<scalar_t>& vectors, int64_t first, int64_t last, int64_t begin, int64_t across) const {
    if_streamed(can_stream<scalar_t>(y), [&](auto streamed) {
      for_folded(first, last, across, columns.fold, [&](int64_t row, int64_t folded) {
        const scalar_t* from = row_of<scalar_t>(x, row) + begin;
        scalar_t* to = row_of<scalar_t>(y, row) + begin;
        for_vectors<kLanes<acc_t>>(folded, [&](int64_t col, auto count) {
          const auto centered = load(from + col, count) - load(vectors.mean + col, count);
          put(to + col, centered * load(vectors.weight + col, count) + load(vectors.bias + col, count), count, streamed);
        });
      });
    });
  }

  // With the means known.
  void write_all(const acc_t* means) const {
    const int64_t block = 64 * columns.fold, blocks = (columns.count + block - 1) / block;
    parallel_for(columns.means * blocks * columns.tiles, kGrain / (block * columns.width) + 1, [&](int64_t from, int64_t to) {
      for (int64_t i = from; i < to; ++i) {
        const int64_t tile = i % columns.tiles, first = i / columns.tiles % blocks * block, mean = i / columns.tiles / blocks;
        const int64_t begin = columns.begin(tile), across = columns.columns(tile), row = mean * columns.count;
        TileVectors<scalar_t> vectors(weight, bias, begin, across, columns.fold);
        vectors.set_mean(means + mean * columns.dim + begin, across, columns.fold);
        write(vectors, row + first, row + std::min(first + block, columns.count), begin, across);
      }
    });
  }
};

template <class acc_t>
void means_of_parts(acc_t* mean, const acc_t* partial, const Columns& c, int64_t parts) {
  parallel_for(c.means, kGrain / (parts * c.dim) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      add_parts(mean + i * c.dim, partial + i * parts * c.dim, parts, c.dim, 1 / acc_t(c.count));
  });
}

template <class scalar_t>
void forward_over(Output y, Output mean, Output partial, Input x, Input weight, Input bias, int64_t count) {
  using acc_t = accumulation_t<scalar_t>;
  const OverRows<scalar_t> over{{x.rows(), x.dim(), count, is_flat(x), !partial}, y, x, weight, bias};
  const Columns& c = over.columns;
  if (!partial) {
    return parallel_for(c.means * c.tiles, kGrain / (count * c.width) + 1, [&](int64_t from, int64_t to) {
      for (int64_t i = from; i < to; ++i) {
        const int64_t begin = c.begin(i % c.tiles), across = c.columns(i % c.tiles), first = i / c.tiles * count;
        TileVectors<scalar_t> vectors(weight, bias, begin, across, c.fold);
        acc_t sum[kTile];
        sum_rows(sum, first, first + count, across, c.fold, over.terms(begin));
        vectors.set_mean(sum, across, c.fold, 1 / acc_t(count));
        if (mean) std::copy(vectors.mean, vectors.mean + across, data<acc_t>(mean) + i / c.tiles * c.dim + begin);
        over.write(vectors, first, first + count, begin, across);
      }
    });
  }
  const int64_t parts = partial.rows() / c.means;
  parallel_for(c.means * parts * c.tiles, kGrain * parts / (count * c.width) + 1, [&](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i) {
      const int64_t begin = c.begin(i % c.tiles), across = c.columns(i % c.tiles), share = i / c.tiles;
      const int64_t row = share / parts * count, part = share % parts;
      acc_t sum[kTile];
      sum_rows(sum, row + count * part / parts, row + count * (part + 1) / parts, across, c.fold, over.terms(begin));
      std::copy(sum, sum + across, data<acc_t>(partial) + share * c.dim + begin);
    }
  });
  means_of_parts(data<acc_t>(mean), data<acc_t>(partial), c, parts);
  over.write_all(data<acc_t>(mean));
}

// The sums of one tile of columns over some rows of one mean.
template <class scalar_t>
struct GradientSums {
  using acc_t = accumulation_t<scalar_t>;
  acc_t sum[kTile], product[kTile];

  void make(const OverRows<scalar_t>& over, const Input& x, const Input& mean, int64_t first, int64_t last, int64_t begin,
            int64_t across) {
    const Columns& c = over.columns;
    sum_rows(sum, first, last, across, c.fold, over.terms(begin));
    if (!x) return;
    acc_t m[kTile];
    std::copy_n(data<acc_t>(mean) + first / c.count * c.dim + begin, across, m);
    TileVectors<scalar_t>::repeat(m, across, c.fold);
    sum_rows(product, first, last, across, c.fold, [&](int64_t row, int64_t col, auto count) {
      return load(row_of<scalar_t>(over.x, row) + begin + col, count) *
             (load(row_of<scalar_t>(x, row) + begin + col, count) - load(m + col, count));
    });
  }
};

// Held: a thread takes a share of the means, and a tile of columns that stays in the cache.
template <class scalar_t>
void backward_held(const OverRows<scalar_t>& over, Output partial, const Input& x, const Input& mean) {
  using acc_t = accumulation_t<scalar_t>;
  const Columns& c = over.columns;
  const int64_t shares = partial ? partial.size[1] : c.means;
  parallel_for(shares * c.tiles, kGrain * shares / (c.means * c.count * c.width) + 1, [&](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i) {
      const int64_t begin = c.begin(i % c.tiles), across = c.columns(i % c.tiles), share = i / c.tiles;
      TileVectors<scalar_t> vectors(over.weight, over.bias, begin, across, c.fold);
      acc_t total[kTile], products[kTile];
      std::fill(total, total + across, acc_t(0));
      std::fill(products, products + across, acc_t(0));
      for (int64_t group = c.means * share / shares; group < c.means * (share + 1) / shares; ++group) {
        GradientSums<scalar_t> sums;
        sums.make(over, x, mean, group * c.count, (group + 1) * c.count, begin, across);
        for (int64_t col = 0; col < across; ++col) {
          total[col] += sums.sum[col];
          if (x) products[col] += sums.product[col];
        }
        vectors.set_mean(sums.sum, across, c.fold, 1 / acc_t(c.count));
        if (over.y) over.write(vectors, group * c.count, (group + 1) * c.count, begin, across);
      }
      if (!partial) continue;
      acc_t* to_sum = data<acc_t>(partial) + share * c.dim + begin;
      std::copy_n(total, across, to_sum);
      if (x) std::copy_n(products, across, to_sum + shares * c.dim);
    }
  });
}

template <class scalar_t>
void backward_split(const OverRows<scalar_t>& over, Output partial, Output grad_mean, const Input& x, const Input& mean) {
  using acc_t = accumulation_t<scalar_t>;
  const Columns& c = over.columns;
  const int64_t shares = partial.size[1], parts = shares / c.means;
  parallel_for(shares * c.tiles, kGrain * parts / (c.count * c.width) + 1, [&](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i) {
      const int64_t begin = c.begin(i % c.tiles), across = c.columns(i % c.tiles), share = i / c.tiles;
      const int64_t row = share / parts * c.count, part = share % parts;
      GradientSums<scalar_t> sums;
      sums.make(over, x, mean, row + c.count * part / parts, row + c.count * (part + 1) / parts, begin, across);
      acc_t* to_sum = data<acc_t>(partial) + share * c.dim + begin;
      std::copy_n(sums.sum, across, to_sum);
      if (x) std::copy_n(sums.product, across, to_sum + shares * c.dim);
    }
  });
  if (!over.y) return;
  means_of_parts(data<acc_t>(grad_mean), data<acc_t>(partial), c, parts);
  over.write_all(data<acc_t>(grad_mean));
}

template <class scalar_t>
void backward_over(Output dx, Output dweight, Output dbias, Output partial, Output grad_mean, Input grad, Input x, Input weight,
                   Input mean, int64_t count) {
  using acc_t = accumulation_t<scalar_t>;
  const bool split = partial && partial.size[1] > grad.rows() / count, flat = is_flat(grad) && (!x || is_flat(x));
  const OverRows<scalar_t> over{{grad.rows(), grad.dim(), count, flat, !split}, dx, grad, weight, Input()};
  split ? backward_split(over, partial, grad_mean, x, mean) : backward_held(over, partial, x, mean);
  const auto add = [&](const Output& to, int64_t index) {
    const int64_t shares = partial.size[1], features = to.dim();
    add_parts(data<scalar_t>(to), data<acc_t>(partial) + index * shares * grad.dim(), shares * grad.dim() / features, features);
  };
  if (dbias) add(dbias, 0);
  if (dweight) add(dweight, 1);
}

}  // namespace
}  // namespace pylayers::cpu::PYLAYERS_ISA
