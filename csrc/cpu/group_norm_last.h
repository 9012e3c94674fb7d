// Channels that are last in memory.
//
// Threads take shares of the positions, in which means and Σ (x − mean)² of each channel are found; x is read a second time when it is
// normalised. Backward reads grad and x twice as well.
#pragma once

#include <utility>
#include <vector>

#include "group_norm.h"
#include "pairs.h"

namespace pylayers::cpu::PYLAYERS_ISA {
namespace {

// What belongs to channels as pairs lie, or `back` into their order.
template <class scalar_t, bool back = false, class acc_t>
inline void arrange([[maybe_unused]] acc_t* numbers, [[maybe_unused]] int64_t channels) {
  if constexpr (std::is_same_v<scalar_t, bfloat16>)
    for (acc_t* at = numbers; at + 2 * kFloats <= numbers + channels; at += 2 * kFloats) {
      acc_t own[2 * kFloats];
      std::copy_n(at, 2 * kFloats, own);
      for (int i = 0; i < 2 * kFloats; ++i) {
        const int lies = i % 2 * kFloats + i / 2;
        at[back ? i : lies] = own[back ? lies : i];
      }
    }
}

// What belongs to each channel of one input: numbers one behind the other, filled for another input when it comes.
template <class acc_t, int kinds>
struct Channels {
  std::vector<acc_t> memory;
  int64_t channels, batch = -1;

  explicit Channels(int64_t channels) : memory(kinds * channels), channels(channels) {}
  acc_t* of(int kind) { return memory.data() + kind * channels; }

  template <class scalar_t>
  void fill(int kind, const Input& vector, acc_t otherwise) {
    if (!vector) return void(std::fill_n(of(kind), channels, otherwise));
    for_vectors<kLanes<acc_t>>(channels, [&](int64_t col, auto count) {
      store(of(kind) + col, load(data<scalar_t>(vector) + col, count), count);
    });
  }
  // Of what the groups of input n have.
  void spread(int kind, const Sizes& sizes, int64_t n, const acc_t* of_groups) {
    for (int64_t g = 0; g < sizes.groups; ++g) std::fill_n(of(kind) + g * sizes.each, sizes.each, of_groups[n * sizes.groups + g]);
  }
  void multiply(int kind, int by) {
    for_vectors<kLanes<acc_t>>(channels, [&](int64_t col, auto count) {
      store(of(kind) + col, load(of(kind) + col, count) * load(of(by) + col, count), count);
    });
  }
  template <class scalar_t>
  void arrange_all() {
    for (int kind = 0; kind < kinds; ++kind) arrange<scalar_t>(of(kind), channels);
  }
  // Whether there is another input than before.
  bool turn_to(int64_t n) { return std::exchange(batch, n) != n; }
};

// Asks for what comes 8 KB behind `rows` rows of these columns, as much as they are: several rows at once are more streams than the
// hardware follows.
template <int rows, class scalar_t, class Count>
inline void ask_ahead(const scalar_t* from, int64_t col, Count) {
  constexpr int64_t bytes = (std::is_same_v<Count, Pair> ? 2 : 1) * rows * kLanes<accumulation_t<scalar_t>> * sizeof(scalar_t);
  const auto at = reinterpret_cast<uintptr_t>(from + rows * col) + 8192;
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(reinterpret_cast<const void*>(at + i));
}

// body(n, begin, end) for blocks of positions, in parallel.
template <class Body>
inline void for_position_blocks(const Sizes& sizes, const Body& body) {
  const int64_t block = std::max<int64_t>(1, kGrain / sizes.channels), blocks = (sizes.positions + block - 1) / block;
  parallel_for(sizes.batch * blocks, kGrain / (std::min(block, sizes.positions) * sizes.channels) + 1, [&](int64_t first, int64_t last) {
    body(first, last, [&](int64_t i, const auto& run) {
      const int64_t begin = i % blocks * block;
      run(i / blocks, begin, std::min(begin + block, sizes.positions));
    });
  });
}

constexpr int64_t kFirst = 16, kRun = 64;

template <class scalar_t, Activation activation>
struct LastForward {
  using acc_t = accumulation_t<scalar_t>;
  const GroupForward& args;
  const Sizes sizes;
  const int64_t parts, second;  // from the means to the squares

  explicit LastForward(const GroupForward& args)
      : args(args), sizes(args.x, args.groups, true), parts(args.partial.rows() / 2 / sizes.batch),
        second(sizes.batch * parts * sizes.channels) {}

  const scalar_t* row(int64_t n, int64_t position) const {
    return data<scalar_t>(args.x) + n * args.x.stride[0] + position * sizes.channels;
  }
  int64_t start(int64_t part) const { return sizes.positions * part / parts; }

  // Sums about the mean of the first positions. Of n numbers, the mean of any m is within √(n / m) standard deviations of that of
  // all, so that what cancels is no more than n / m times the result.
  void find_channels(Channels<acc_t, 1>& own, int64_t n, int64_t part) const {
    const int64_t channels = sizes.channels, first = start(part), last = start(part + 1), some = std::min(kFirst, last - first);
    acc_t *const shift = own.of(0), *const means = data<acc_t>(args.partial) + (n * parts + part) * channels, *const squares = means + second;
    for (acc_t* sum : {shift, means, squares}) std::fill_n(sum, channels, acc_t(0));
    for_row_blocks(first, first + some, [&](int64_t position, auto rows) {
      const scalar_t* const from = row(n, position);
      for_columns<scalar_t>(channels, [&](int64_t col, auto count) {
        auto sum = load(shift + col, count);
#pragma GCC unroll 4
        for (int r = 0; r < rows; ++r) sum += load(from + r * channels + col, count) * (1 / acc_t(some));
        store(shift + col, sum, count);
      });
    });
    for_row_blocks(first, last, [&](int64_t position, auto rows) {
      const scalar_t* const from = row(n, position);
      for_columns<scalar_t>(channels, [&](int64_t col, auto count) {
        const auto about = load(shift + col, count);
        ask_ahead<rows>(from, col, count);
        auto sum = decltype(about){}, square = sum;
#pragma GCC unroll 4
        for (int r = 0; r < rows; ++r) {
          const auto away = load(from + r * channels + col, count) - about;
          sum += away;
          square += away * away;
        }
        store(means + col, load(means + col, count) + sum, count);
        store(squares + col, load(squares + col, count) + square, count);
      });
    });
    for (acc_t* sum : {shift, means, squares}) arrange<scalar_t, true>(sum, channels);
    for_vectors<kLanes<acc_t>>(channels, [&](int64_t col, auto count) {
      const auto sum = load(means + col, count), mean = sum / acc_t(last - first);
      const auto left = load(squares + col, count) - mean * sum;
      store(means + col, load(shift + col, count) + mean, count);
      store(squares + col, left < 0 ? Vector<acc_t>{} : left, count);  // a nan stays one
    });
  }

  void find_group(int64_t i) const {
    const int64_t n = i / sizes.groups, begin = i % sizes.groups * sizes.each, end = begin + sizes.each;
    const acc_t* const means = data<acc_t>(args.partial) + n * parts * sizes.channels;
    Moments<acc_t> all;
    for (int64_t part = 0; part < parts; ++part)
      for (int64_t c = begin; c < end; ++c) {
        const acc_t* const at = means + part * sizes.channels + c;
        all.add(acc_t(start(part + 1) - start(part)), at[0], at[second]);
      }
    data<acc_t>(args.mean)[i] = all.mean;
    data<acc_t>(args.rstd)[i] = 1 / std::sqrt(all.squares / all.count + acc_t(args.eps));
  }

  void set(Channels<acc_t, 4>& own, int64_t n) const {
    own.spread(0, sizes, n, data<acc_t>(args.mean));
    own.spread(1, sizes, n, data<acc_t>(args.rstd));
    own.template fill<scalar_t>(2, args.weight, 1);
    own.template fill<scalar_t>(3, args.bias, 0);
    own.multiply(1, 2);
    own.template arrange_all<scalar_t>();
  }

  void write() const {
    for_position_blocks(sizes, [&](int64_t first, int64_t last, const auto& block) {
      Channels<acc_t, 4> own(sizes.channels);
      const acc_t *mean = own.of(0), *scale = own.of(1), *bias = own.of(3);
      for (int64_t i = first; i < last; ++i) block(i, [&](int64_t n, int64_t begin, int64_t end) {
        if (own.turn_to(n)) set(own, n);
        for_row_blocks(begin, end, [&](int64_t position, auto rows) {
          const scalar_t* const from = row(n, position);
          scalar_t* const to = data<scalar_t>(args.y) + (n * sizes.positions + position) * sizes.channels;
          for_columns<scalar_t>(sizes.channels, [&](int64_t col, auto count) {
            const auto m = load(mean + col, count), s = load(scale + col, count), b = load(bias + col, count);
            ask_ahead<rows>(from, col, count);
#pragma GCC unroll 4
            for (int r = 0; r < rows; ++r) {
              const auto x = load(from + r * sizes.channels + col, count);
              const auto y = each([](auto x, auto m, auto s, auto b) { return activate<activation>((x - m) * s + b); }, x, m, s, b);
              store(to + r * sizes.channels + col, y, count);
            }
          });
        });
      });
    });
  }

  void run() const {
    parallel_for(sizes.batch * parts, kGrain * parts / (sizes.positions * sizes.channels) + 1, [&](int64_t begin, int64_t end) {
      Channels<acc_t, 1> own(sizes.channels);
      for (int64_t i = begin; i < end; ++i) find_channels(own, i / parts, i % parts);
    });
    for (int64_t i = 0; i < sizes.batch * sizes.groups; ++i) find_group(i);
    write();
  }
};

template <class scalar_t, Activation activation>
struct LastBackward {
  using acc_t = accumulation_t<scalar_t>;
  const GroupBackward& args;
  const Sizes sizes;
  const int64_t parts, second;  // from the sums of dz · n to those of dz

  explicit LastBackward(const GroupBackward& args)
      : args(args), sizes(args.x, args.groups, true), parts(args.partial.rows() / 2 / sizes.batch),
        second(sizes.batch * parts * sizes.channels) {}

  const scalar_t* row(const Input& x, int64_t n, int64_t position) const {
    return data<scalar_t>(x) + n * x.stride[0] + position * sizes.channels;
  }

  template <int kinds>
  void set(Channels<acc_t, kinds>& own, int64_t n) const {
    if (!own.turn_to(n)) return;
    const int64_t groups = sizes.batch * sizes.groups;
    own.spread(0, sizes, n, data<acc_t>(args.mean));
    own.spread(1, sizes, n, data<acc_t>(args.rstd));
    own.template fill<scalar_t>(2, args.weight, 1);
    own.template fill<scalar_t>(3, args.bias, 0);
    if constexpr (kinds > 4) {
      own.spread(4, sizes, n, data<acc_t>(args.means));
      own.spread(5, sizes, n, static_cast<const acc_t*>(data<acc_t>(args.means)) + groups);
      own.multiply(4, 1);
    }
    own.template arrange_all<scalar_t>();
  }

  // In runs of positions: the longer a sum, the more it rounds.
  void find_sums(Channels<acc_t, 4>& own, Channels<acc_t, 2>& some, int64_t n, int64_t part) const {
    const int64_t channels = sizes.channels, first = sizes.positions * part / parts, last = sizes.positions * (part + 1) / parts;
    acc_t* const sums = data<acc_t>(args.partial) + (n * parts + part) * channels;
    std::fill_n(sums, channels, acc_t(0));
    std::fill_n(sums + second, channels, acc_t(0));
    set(own, n);
    for (int64_t start = first; start < last; start += kRun) {
      std::fill(some.memory.begin(), some.memory.end(), acc_t(0));
      add_run(own, some, n, start, std::min(start + kRun, last));
      for_vectors<kLanes<acc_t>>(channels, [&](int64_t col, auto count) {
        const auto products = load(some.of(0) + col, count) * load(own.of(1) + col, count);
        store(sums + col, load(sums + col, count) + products, count);
        store(sums + second + col, load(sums + second + col, count) + load(some.of(1) + col, count), count);
      });
    }
    for (acc_t* sum : {sums, sums + second}) arrange<scalar_t, true>(sum, channels);
  }

  // Σ dz · (x − mean) and Σ dz
  void add_run(Channels<acc_t, 4>& own, Channels<acc_t, 2>& some, int64_t n, int64_t first, int64_t last) const {
    for_row_blocks(first, last, [&](int64_t position, auto rows) {
      const scalar_t *const from = row(args.x, n, position), *const grad = row(args.grad, n, position);
      for_columns<scalar_t>(sizes.channels, [&](int64_t col, auto count) {
        const auto mean = load(own.of(0) + col, count), bias = load(own.of(3) + col, count);
        const auto scale = load(own.of(1) + col, count) * load(own.of(2) + col, count);
        auto products = decltype(mean){}, sum = products;
        ask_ahead<rows>(from, col, count);
        ask_ahead<rows>(grad, col, count);
#pragma GCC unroll 4
        for (int r = 0; r < rows; ++r) {
          const auto away = load(from + r * sizes.channels + col, count) - mean;
          const auto before = [](auto grad, auto away, auto scale, auto bias) { return gradient_before<activation>(grad, away, scale, bias); };
          const auto dz = each(before, load(grad + r * sizes.channels + col, count), away, scale, bias);
          products += dz * away;
          sum += dz;
        }
        store(some.of(0) + col, load(some.of(0) + col, count) + products, count);
        store(some.of(1) + col, load(some.of(1) + col, count) + sum, count);
      });
    });
  }

  void write() const {
    for_position_blocks(sizes, [&](int64_t first, int64_t last, const auto& block) {
      Channels<acc_t, 6> own(sizes.channels);
      for (int64_t i = first; i < last; ++i) block(i, [&](int64_t n, int64_t begin, int64_t end) {
        set(own, n);
        for_row_blocks(begin, end, [&](int64_t position, auto rows) {
          const scalar_t *const from = row(args.x, n, position), *const grad = row(args.grad, n, position);
          scalar_t* const to = data<scalar_t>(args.dx) + (n * sizes.positions + position) * sizes.channels;
          for_columns<scalar_t>(sizes.channels, [&](int64_t col, auto count) {
            const auto mean = load(own.of(0) + col, count), rstd = load(own.of(1) + col, count);
            const auto w = load(own.of(2) + col, count), bias = load(own.of(3) + col, count);
            const auto slope = load(own.of(4) + col, count), shift = load(own.of(5) + col, count);
            ask_ahead<rows>(from, col, count);
            ask_ahead<rows>(grad, col, count);
#pragma GCC unroll 4
            for (int r = 0; r < rows; ++r) {
              const int64_t at = r * sizes.channels + col;
              const auto d = [](auto grad, auto x, auto mean, auto rstd, auto w, auto bias, auto slope, auto shift) {
                const auto away = x - mean;
                const auto dz = gradient_before<activation>(grad, away, rstd * w, bias);
                return (rounded(dz * w) - shift - away * slope) * rstd;
              };
              store(to + at, each(d, load(grad + at, count), load(from + at, count), mean, rstd, w, bias, slope, shift), count);
            }
          });
        });
      });
    });
  }

  void run() const {
    parallel_for(sizes.batch * parts, kGrain * parts / (sizes.positions * sizes.channels) + 1, [&](int64_t begin, int64_t end) {
      Channels<acc_t, 4> own(sizes.channels);
      Channels<acc_t, 2> some(sizes.channels);
      for (int64_t i = begin; i < end; ++i) find_sums(own, some, i / parts, i % parts);
    });
    if (!args.dx) return;
    for (int64_t i = 0; i < sizes.batch * sizes.groups; ++i) find_means<scalar_t>(args, sizes, parts, i);
    write();
  }
};

}  // namespace
}  // namespace pylayers::cpu::PYLAYERS_ISA
