// What every op shares: checks with a sentence, allocation, and the question whether a plain kernel call would be wrong.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/SymIntArrayRef.h>

#include <optional>

#include "../registry.h"

namespace pylayers {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

// A tensor as a matrix [rows, dim]: unit stride along dim, one stride between rows. Copied only if it has no such strides.
struct Rows {
  Tensor tensor;
  int64_t rows = 0;
  int64_t dim = 0;
  int64_t stride = 0;

  Argument input(int64_t offset, int64_t columns) const { return Argument::input(tensor, {rows, columns}, {stride, 1}, offset); }
  Argument input() const { return tensor.defined() ? input(0, dim) : Argument(); }
  bool empty() const { return rows == 0 || dim == 0; }
};

// dim: the product of the trailing sizes that make up a row.
PYLAYERS_API Rows as_rows(const Tensor& tensor, int64_t dim);

// Optional vectors and matrices, contiguous by construction.
inline const Tensor& value(const OptionalTensor& tensor) {
  static const Tensor none;
  return tensor ? *tensor : none;
}
inline Tensor contiguous(const OptionalTensor& tensor) { return tensor && tensor->defined() ? tensor->contiguous() : Tensor(); }
inline Argument vector(const Tensor& tensor) { return tensor.defined() ? Argument::input(tensor, {tensor.numel()}) : Argument(); }

// Contiguous, uninitialised. Large tensors on the CPU ask for huge pages: faulting them in 4 KB steps costs more than the kernel.
PYLAYERS_API Tensor allocate(const Tensor& like, c10::SymIntArrayRef sizes, at::ScalarType dtype);
inline Tensor allocate_like(const Tensor& like) { return allocate(like, like.sym_sizes(), like.scalar_type()); }
PYLAYERS_API Tensor nothing(const Tensor& like);  // stands for an output that nobody asked for

// Whether its numbers lie in the memory of the CPU, so that they can be looked at without waiting for them.
bool has_cpu_memory(const Tensor& tensor);

// Whether sums over this tensor are split as a GPU's kernels want it: by the backend that is selected, not by the threads there are.
bool splits_for_gpu(const Tensor& tensor);

// Workspace [parts, dim] for each of `sums` sums over rows, one after the other. The number of parts depends on the sizes alone,
// so that results do not depend on the number of threads.
PYLAYERS_API int64_t sum_parts(const Tensor& like, int64_t rows, int64_t dim, int64_t sums = 1);
PYLAYERS_API Tensor partial_sums(const Tensor& like, int64_t rows, int64_t dim, int64_t sums = 1);

// A tensor, or an undefined one, in this dtype: itself where it has it, without a call of an op.
inline Tensor in_dtype(const Tensor& tensor, at::ScalarType dtype) {
  return tensor.defined() && tensor.scalar_type() != dtype ? tensor.to(dtype) : tensor;
}

inline at::ScalarType accumulation_dtype(at::ScalarType dtype) { return dtype == at::kDouble ? at::kDouble : at::kFloat; }
inline Tensor in_acc(const Tensor& tensor) {
  return tensor.defined() ? in_dtype(tensor, accumulation_dtype(tensor.scalar_type())) : tensor;
}

// True where kernels and their saved tensors would silently give wrong derivatives or batches (functorch transforms, forward-mode
// AD) and where the selected backend is the plain formula.
PYLAYERS_API bool needs_formula(const char* op, c10::ArrayRef<const Tensor*> tensors);
PYLAYERS_API bool needs_gradient(c10::ArrayRef<const Tensor*> tensors);

// TypeError unless the tensor is float64, float32, float16 or bfloat16.
PYLAYERS_API void check_floating(const char* op, const char* name, const Tensor& tensor);
// TypeError unless dtype, RuntimeError unless device are those of `input`, which is called `input_name`.
PYLAYERS_API void check_matches(const char* op, const char* name, const Tensor& tensor, const char* input_name,
                                const Tensor& input);

// Casts of autocast, cached for parameters. Only floating point tensors on the device of `input` change.
PYLAYERS_API Tensor autocast_to(at::ScalarType dtype, const Tensor& tensor, const Tensor& input);
inline OptionalTensor autocast_to(at::ScalarType dtype, const OptionalTensor& tensor, const Tensor& input) {
  return value(tensor).defined() ? OptionalTensor(autocast_to(dtype, *tensor, input)) : tensor;
}

PYLAYERS_API at::ScalarType autocast_dtype(const Tensor& input);

}  // namespace pylayers
