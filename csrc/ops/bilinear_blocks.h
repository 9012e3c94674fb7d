// The products of y[b, k] = Σ_ij x1[b, i] · W[k, i, j] · x2[b, j] and of its gradients, over blocks. Matrices are [batch, …] with
// unit stride along the last dimension, weights contiguous, nothing is empty.
#pragma once

#include "blocks.h"

namespace pylayers {

void bilinear_output(const Target& target, const Tensor& y, const Tensor& x1, const Tensor& x2, const Tensor& weight,
                     const Tensor& bias);
// dx1 and dx2 may be undefined.
void bilinear_input_gradients(const Target& target, const Tensor& dx1, const Tensor& dx2, const Tensor& grad, const Tensor& x1,
                              const Tensor& x2, const Tensor& weight);
void bilinear_weight_gradient(const Target& target, const Tensor& dweight, const Tensor& grad, const Tensor& x1, const Tensor& x2);

}  // namespace pylayers
