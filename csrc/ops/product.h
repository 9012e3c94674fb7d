// Matrix products of linear layers, by the backend's own kernel or the library's.
#pragma once

#include "common.h"

namespace pylayers {

// [rows, columns] of a tensor with any leading dimensions.
Tensor flat(const Tensor& tensor);

// A matrix as it lies in memory.
inline Argument matrix(const Tensor& tensor) { return Argument::input(tensor, tensor.sizes(), tensor.strides()); }

// Whether the library's products of 16 bits take many times as long here as those of float32, for the processor has no instruction for
// them: `multiply_to` then converts blocks.
bool converts(const Tensor& like);

// Whether `multiply_to` takes bfloat16 of the kind of `like` to float32, by an instruction that the processor has: the library rounds
// what it sums in float32 to bfloat16.
bool sums_bfloat16(const Tensor& like);

// Whether `multiply_to` is faster here than the product that torch calls: it converts, or it takes a kernel of ours for what is large
// enough, because MKL has no good one of float32 for this processor. What is of no known size, in a graph for any, may be large.
bool multiplies_faster(const Tensor& input, const Tensor& weight);

// out = alpha · a · b + beta · added, by the library. added: a vector for every row, or if left out what out holds. Of bfloat16 out may be
// float32 where `sums_bfloat16`; alpha is 1 then.
void multiply_to(const Tensor& out, const Tensor& a, const Tensor& b, double alpha = 1, double beta = 0, const Tensor& added = {});

// scale · a · bᵀ
Tensor product(const Target& target, const Tensor& a, const Tensor& b, double scale = 1);

}  // namespace pylayers
