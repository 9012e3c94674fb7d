// The products of y[b, k] = Σ_{i ≤ j} P[k, p(i, j)] · x[b, i] · x[b, j] and of its gradients, over blocks of rows i of the triangle.
// Matrices are [batch, …] with unit stride along the last dimension, P is contiguous, nothing is empty.
#pragma once

#include "blocks.h"

namespace pylayers {

// The place p(i, i) of a row of the packed triangle, and the length of i = dim rows.
inline int64_t triangle_row(int64_t dim, int64_t i) { return i * dim - i * (i - 1) / 2; }

void triangle_output(const Target& target, const Tensor& y, const Tensor& x, const Tensor& packed, const Tensor& bias);
void triangle_input_gradient(const Target& target, const Tensor& dx, const Tensor& grad, const Tensor& x, const Tensor& packed);
void triangle_weight_gradient(const Target& target, const Tensor& dpacked, const Tensor& grad, const Tensor& x);

}  // namespace pylayers
