// What a softmax is made of: exponentials that know their largest, and the scores that attention makes of its input.
#pragma once

#include "activation.cuh"
#include "rows.cuh"

namespace pylayers::cuda {

// Not of the standard library, whose constants device code cannot name.
template <class acc_t>
__device__ acc_t infinity() {
  return acc_t(__int_as_float(0x7f800000));
}

template <class acc_t>
__device__ acc_t nan() {
  return acc_t(__int_as_float(0x7fffffff));
}

template <class acc_t>
__device__ acc_t larger(acc_t a, acc_t b) {  // a nan in b is passed over
  return a < b ? b : a;
}

template <class scalar_t>
__device__ acc_of<scalar_t> exponential(acc_of<scalar_t> x) {
  if constexpr (is_16_bit<scalar_t>) return fast_exp(x);
  else return exp(x);
}

// 1 / x for normal numbers and nan. The operator's care for others is a call, around which the compiler spills.
__device__ inline float reciprocal(float x) { return fast_reciprocal(x); }
__device__ inline double reciprocal(double x) {
  double y;
  asm("rcp.approx.ftz.f64 %0, %1;" : "=d"(y) : "d"(x));
  y *= 2 - x * y;
  return y * (2 - x * y);
}

// What is subtracted before exponentiation: the largest score, but 0 where all are −inf.
template <class acc_t>
__device__ acc_t shift_of(acc_t top) {
  return top == -infinity<acc_t>() ? acc_t(0) : top;
}

// Of numbers seen so far: the largest, and the sum of their exponentials beside it.
template <class scalar_t>
struct Online {
  using acc_t = acc_of<scalar_t>;
  acc_t top = -infinity<acc_t>(), total = 0;

  __device__ void raise(acc_t to) {  // to at least `to`
    const acc_t before = top;
    top = larger(top, to);
    if (total != 0) total *= exponential<scalar_t>(before - top);
  }
  __device__ void add(acc_t x) { total += exponential<scalar_t>(x - shift_of(top)); }
  __device__ void merge(Online other) {
    raise(other.top);
    other.raise(top);
    total += other.total;
  }
};

template <class acc_t, class Team = Block>
__device__ acc_t row_max(acc_t value, int turn, Team team = {}) {
  return team.combine(Values<acc_t, 1>{value}, -infinity<acc_t>(), turn, [](acc_t a, acc_t b) { return larger(a, b); })[0];
}

// What a query sees of its row of keys: only keys up to its own place where `causal`, the last query sees all.
struct Sight {
  int64_t dim;
  unsigned queries;  // division in 64 bits is a call
  bool causal;

  __device__ int64_t live(int64_t row) const {
    return causal ? max(min(unsigned(row) % queries + dim - queries + 1, dim), int64_t(0)) : dim;
  }
  template <int width>
  __device__ int64_t live_vectors(int64_t row) const {
    return (live(row) + width - 1) / width;
  }
};

// [outer, inner, queries, dim] with any strides but the last, which is 1.
template <class scalar_t>
struct Mask {
  const scalar_t* added;     // one of these, or none
  const uint8_t* allowed;
  unsigned inner, queries;
  int64_t stride[3];

  __device__ int64_t offset(int64_t row) const {
    const unsigned query = unsigned(row) % queries, matrix = unsigned(row) / queries;
    return matrix / inner * stride[0] + matrix % inner * stride[1] + query * stride[2];
  }
};

// `width` bytes that move in one access.
template <int width>
struct alignas(width) Bytes {
  uint8_t value[width];
};

// The scores of vector `index`, of which `live` columns count; −inf elsewhere.
template <class scalar_t, int width>
__device__ Values<acc_of<scalar_t>, width> scores(const Vector<scalar_t, width>& x, const Mask<scalar_t>& mask,
                                                  int64_t offset, acc_of<scalar_t> scale, int64_t index, int64_t live) {
  using acc_t = acc_of<scalar_t>;
  auto s = unpack(x);
  const int64_t count = (live + width - 1) / width;
#pragma unroll
  for (int i = 0; i < width; ++i) s[i] *= scale;
  if (mask.added) {
    const auto added = unpack(load_one<width>(mask.added + offset, index, count));
#pragma unroll
    for (int i = 0; i < width; ++i) s[i] += added[i];
  }
  if (mask.allowed && index < count) {
    const auto allowed = reinterpret_cast<const Bytes<width>*>(mask.allowed + offset)[index];
#pragma unroll
    for (int i = 0; i < width; ++i)
      if (!allowed.value[i]) s[i] = -infinity<acc_t>();
  }
#pragma unroll
  for (int i = 0; i < width; ++i)
    if (index * width + i >= live) s[i] = -infinity<acc_t>();
  return s;
}

}  // namespace pylayers::cuda
