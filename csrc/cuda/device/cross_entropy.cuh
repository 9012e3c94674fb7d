// What cross entropy is made of: which rows count, the logits of a vector, what its columns have of the probability, and sums of both.
#pragma once

#include "../../cross_entropy.h"
#include "ragged.cuh"
#include "softmax.cuh"

namespace pylayers::cuda {

// Vectors of x that a thread has under way together: as many as fit 64 registers with what is computed of them.
template <class scalar_t, Labels labels, bool capped>
inline constexpr int vectors_of = sizeof(scalar_t) == 8                                      ? 1
                                  : labels == Labels::probabilities && sizeof(scalar_t) == 2 ? 1
                                  : labels == Labels::classes && !capped                     ? 4
                                                                                             : 2;

template <class scalar_t>
struct Call {
  using acc_t = acc_of<scalar_t>;
  const scalar_t *x, *soft, *weight;
  const int64_t* target;
  int64_t rows, dim, x_stride, soft_stride, ignore_index;
  acc_t keep, each;  // of a probability; what smoothing gives every class
  acc_t cap, inverse;

  // The same for all threads of a row. What is behind the last row does not count.
  __device__ RowKind kind(int64_t row, int64_t* column) const {
    *column = -1;
    if (row >= rows) return RowKind::ignored;
    if (!target) return RowKind::counted;
    *column = target[row];
    if (*column == ignore_index) return RowKind::ignored;
    return *column >= 0 && *column < dim ? RowKind::counted : RowKind::wrong;
  }
  __device__ const scalar_t* x_row(int64_t row) const { return x + row * x_stride; }
  __device__ const scalar_t* soft_row(int64_t row) const { return soft + row * soft_stride; }
};

// Rounded before anything is subtracted from it, in both steps: else their exponentials differ.
__device__ inline float rounded_product(float a, float b) { return __fmul_rn(a, b); }
__device__ inline double rounded_product(double a, double b) { return __dmul_rn(a, b); }

template <bool capped, class scalar_t, int width>
__device__ Values<acc_of<scalar_t>, width> logits(const Call<scalar_t>& call, const Vector<scalar_t, width>& x) {
  auto z = unpack(x);
#pragma unroll
  for (int i = 0; i < width; ++i)
    if constexpr (capped) z[i] = rounded_product(call.cap, tanh(z[i] * call.inverse));
  return z;
}

// Of the columns from `col` on, beside the target class; where smoothed, as multiples of `each`, so that sums of them are exact.
template <Labels labels, class scalar_t, int width>
__device__ Values<acc_of<scalar_t>, width> shares(const Call<scalar_t>& call, const Vector<scalar_t, width>& soft, int64_t col) {
  Values<acc_of<scalar_t>, width> q;
  if constexpr (labels == Labels::probabilities) q = unpack(soft);
#pragma unroll
  for (int i = 0; i < width; ++i) q[i] = labels == Labels::probabilities ? q[i] * call.keep + call.each : 1;
  if (labels == Labels::classes || !call.weight) return q;
  Vector<scalar_t, width> weight[1];
  load_anywhere<true>(weight, call.weight + col, 0, 1);
  const auto w = unpack(weight[0]);
#pragma unroll
  for (int i = 0; i < width; ++i) q[i] *= w[i];
  return q;
}

// Of what a thread has seen of a row; share and distance: Σ q and Σ q · (z − top).
template <class scalar_t, Labels labels>
struct Sums : Online<scalar_t> {
  using acc_t = acc_of<scalar_t>;
  acc_t share = 0, distance = 0;

  __device__ void raise(acc_t to) {
    const acc_t before = shift_of(this->top);
    Online<scalar_t>::raise(to);
    if constexpr (labels != Labels::classes) distance -= share * (shift_of(this->top) - before);
  }
  __device__ void see(acc_t most) {
    if (most > this->top) raise(most);
  }
  template <int width>
  __device__ void add(const Values<acc_t, width>& z, const Values<acc_t, width>& q) {  // after they were seen
    const acc_t shift = shift_of(this->top);
#pragma unroll
    for (int i = 0; i < width; ++i) {
      const acc_t below = z[i] - shift;
      this->total += exponential<scalar_t>(below);
      if constexpr (labels != Labels::classes) share += q[i], distance += q[i] * below;
    }
  }
  __device__ void combine(int turn) {  // over the threads of the row
    raise(row_max(this->top, turn));
    if constexpr (labels == Labels::classes) {
      this->total = row_sum(this->total, turn);
    } else {
      const auto all = row_sums(Values<acc_t, 3>{this->total, share, distance}, turn);
      this->total = all[0], share = all[1], distance = all[2];
    }
  }
};

}  // namespace pylayers::cuda
