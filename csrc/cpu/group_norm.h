// What both memory formats share.
#pragma once

#include "math.h"
#include "norm.h"

namespace pylayers::cpu::PYLAYERS_ISA {
namespace {

template <class T>
const T* data(const Input& x) { return static_cast<const T*>(x.data); }
template <class T>
T* data(const Output& y) { return static_cast<T*>(y.data); }

struct GroupForward {
  Output y, mean, rstd, partial;
  Input x, weight, bias;
  int64_t groups;
  double eps;
};

struct GroupBackward {
  Output dx, dweight, dbias, partial, means;
  Input grad, x, weight, bias, mean, rstd;
  int64_t groups;
};

// The sizes of x [batch, channels, positions] or, last, [batch, positions, channels].
struct Sizes {
  int64_t batch, channels, positions, groups, each, group;  // each: channels of a group; group: its numbers
  Sizes(const Input& x, int64_t groups, bool last)
      : batch(x.size[0]), channels(x.size[last ? 2 : 1]), positions(x.size[last ? 1 : 2]), groups(groups), each(channels / groups),
        group(each * positions) {}
};

// Contiguous y [a, b, c] as rows of `dim` numbers, for can_stream.
inline Output as_rows(Output y, int64_t dim) {
  const int64_t count = y ? y.size[0] * y.size[1] * y.size[2] : 0;
  y.dims = 2;
  y.size[0] = count / dim;
  y.size[1] = y.stride[0] = dim;
  y.stride[1] = 1;
  return y;
}

// The gradient by z = away · scale + bias.
template <Activation activation, class V>
inline V gradient_before(V grad, V away, V scale, V bias) {
  if constexpr (activation == Activation::none) return grad;
  return grad * derivative<activation>(away * scale + bias);
}

template <class acc_t>
struct Moments {
  acc_t count = 0, mean = 0, squares = 0;

  void add(acc_t more, acc_t other_mean, acc_t other_squares) {
    const acc_t all = count + more, away = other_mean - mean, part = more / all;
    mean += away * part;
    squares += other_squares + away * away * count * part;
    count = all;
  }
};

// Of numbers that follow each other, in pieces that are still in the first-level cache when their squares are summed.
template <class scalar_t, class acc_t = accumulation_t<scalar_t>>
inline Moments<acc_t> moments_of(const scalar_t* from, int64_t dim) {
  constexpr int64_t piece = 4096;
  Moments<acc_t> all;
  for (int64_t begin = 0; begin < dim; begin += piece) {
    const int64_t some = std::min(piece, dim - begin);
    const scalar_t* const own = from + begin;
    const acc_t mean = sum_of_columns<scalar_t>(some, [&](int64_t col, auto count) { return load(own + col, count); }) / acc_t(some);
    all.add(acc_t(some), mean, sum_of_columns<scalar_t>(some, [&](int64_t col, auto count) {
              const auto v = first_lanes(load(own + col, count) - mean, count);
              return v * v;
            }));
  }
  return all;
}

template <class scalar_t>
inline accumulation_t<scalar_t> number(const Input& vector, int64_t index, accumulation_t<scalar_t> otherwise) {
  if (!vector) return otherwise;
  return load(data<scalar_t>(vector) + index, 1)[0];
}

// mean(g · n) and mean(g) of group i from the sums of its channels, over all parts.
template <class scalar_t>
inline void find_means(const GroupBackward& args, const Sizes& sizes, int64_t parts, int64_t i) {
  using acc_t = accumulation_t<scalar_t>;
  const int64_t n = i / sizes.groups, begin = i % sizes.groups * sizes.each;
  const acc_t* const sums = data<acc_t>(args.partial) + n * parts * sizes.channels;
  const int64_t second = sizes.batch * parts * sizes.channels;
  acc_t products = 0, sum = 0;
  for (int64_t c = begin; c < begin + sizes.each; ++c) {
    acc_t own_products = 0, own_sum = 0;
    for (int64_t part = 0; part < parts; ++part) {
      own_products += sums[part * sizes.channels + c];
      own_sum += sums[second + part * sizes.channels + c];
    }
    const acc_t w = number<scalar_t>(args.weight, c, 1);
    products += own_products * w;
    sum += own_sum * w;
  }
  data<acc_t>(args.means)[i] = products / acc_t(sizes.group);
  data<acc_t>(args.means)[sizes.batch * sizes.groups + i] = sum / acc_t(sizes.group);
}

}  // namespace
}  // namespace pylayers::cpu::PYLAYERS_ISA
