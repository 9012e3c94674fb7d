#include "product.h"

#include <ATen/ops/addmm.h>
#include <ATen/ops/addmv.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/mul.h>

#include <algorithm>

#include "../activation.h"

namespace pylayers {
namespace {

// Whether products of 16 bits take many times as long as those of float32: the processor has no instruction for them.
bool widens(const Tensor& out) {
#if defined(__x86_64__)
  static const bool bfloat16 = __builtin_cpu_supports("avx512bf16"), half = __builtin_cpu_supports("avx512fp16");
  return out.scalar_type() == at::kBFloat16 ? !bfloat16 : !half;
#else
  return false;
#endif
}

// A block of a matrix in float32, lying as it does, in memory that is kept for the next one.
Tensor widened(const Tensor& block, Tensor& memory) {
  const bool transposed = block.stride(0) == 1;
  const Tensor from = transposed ? block.t() : block;
  if (!memory.defined()) memory = at::empty({block.numel()}, block.options().dtype(at::kFloat));
  const Tensor to = memory.narrow(0, 0, block.numel()).view(from.sizes()).copy_(from);
  return transposed ? to.t() : to;
}

// In blocks that stay in the caches, summed in float32.
void multiply_widened(const Tensor& out, const Tensor& a, const Tensor& b, double alpha, double beta, const Tensor& added) {
  constexpr int64_t rows = 256, columns = 256, inner = 256;
  Tensor memory_a, memory_b, memory_sum;
  for (int64_t col = 0; col < out.size(1); col += columns) {
    const int64_t wide = std::min(columns, out.size(1) - col);
    for (int64_t row = 0; row < out.size(0); row += rows) {
      const int64_t tall = std::min(rows, out.size(0) - row);
      const Tensor to = out.narrow(0, row, tall).narrow(1, col, wide);
      if (!memory_sum.defined()) memory_sum = at::empty({tall * wide}, out.options().dtype(at::kFloat));
      Tensor sum = memory_sum.narrow(0, 0, tall * wide).view({tall, wide});
      if (beta != 0) sum.copy_(added.narrow(0, row, tall).narrow(1, col, wide));
      for (int64_t k = 0; k < a.size(1); k += inner) {
        const int64_t deep = std::min(inner, a.size(1) - k);
        const Tensor left = widened(a.narrow(0, row, tall).narrow(1, k, deep), memory_a);
        const Tensor right = widened(b.narrow(0, k, deep).narrow(1, col, wide), memory_b);
        at::addmm_out(sum, sum, left, right, /*beta=*/k ? 1 : beta, alpha);
      }
      to.copy_(sum);
    }
  }
}

// Whether converting pays: for few rows the library takes the rows of a weight in their order as fast.
bool worth_widening(const Tensor& a, const Tensor& b) {
  constexpr int64_t multiplications = 1 << 17, rows = 8;
  return a.numel() * b.size(1) >= multiplications && a.size(0) >= (b.stride(0) == 1 ? rows : 2);
}

}  // namespace

Tensor flat(const Tensor& tensor) {
  // Sizes are given in full: -1 is ambiguous for empty tensors.
  const auto leading = tensor.sym_sizes().slice(0, tensor.dim() - 1);
  return tensor.reshape_symint({c10::multiply_integers(leading), tensor.sym_size(-1)});
}

// Matrix products of 16 bits on a CPU take many times as long for one row as those of vectors.
void multiply_to(const Tensor& out, const Tensor& a, const Tensor& b, double alpha, double beta, const Tensor& added) {
  Tensor to = out;
  const bool plain = alpha == 1 && beta == 0, narrow = out.scalar_type() == at::kBFloat16 || out.scalar_type() == at::kHalf;
  const bool vectors = narrow && out.is_cpu() && out.numel() && a.numel();
  if (vectors && plain && a.size(1) == 1) {
    at::mul_out(to, a, b);
  } else if (vectors && a.size(0) == 1 && b.stride(1) == 1) {
    Tensor row = out.select(0, 0);
    at::addmv_out(row, added.expand_as(out).select(0, 0), b.t(), a.select(0, 0), beta, alpha);
  } else if (vectors && widens(out) && worth_widening(a, b)) {
    multiply_widened(out, a, b, alpha, beta, added.expand_as(out));
  } else {
    plain ? at::mm_out(to, a, b) : at::addmm_out(to, added, a, b, beta, alpha);
  }
}

Tensor product(const Target& target, const Tensor& a, const Tensor& b, double scale) {
  Tensor y = allocate(a, {a.sym_size(0), b.sym_size(0)}, a.scalar_type());
  if (kernels::linear_forward.has(target) && a.numel() && b.numel()) {
    kernels::linear_forward(target, Argument::output(y, y.sizes()), Argument(), matrix(a), matrix(b), Argument(), scale,
                            static_cast<int64_t>(Activation::none));
    return y;
  }
  multiply_to(y, a, b.t(), scale, 0, y);
  return y;
}

}  // namespace pylayers
