#include "blocks.h"

#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>

namespace pylayers {
namespace {

constexpr int64_t kLeastRows = 64, kMostRows = 256;
constexpr int64_t kLeastInCache = 1 << 12, kMostInCache = 1 << 16;    // elements: 256 KB of float32 is half a second-level cache
constexpr int64_t kLeastColumns = 1024, kLeastConverted = 64;
constexpr int64_t kLeastOnGpu = 1 << 20, kMostOnGpu = 1 << 24;
constexpr int64_t kAligned = 16;

}  // namespace

Blocks::Blocks(const Tensor& like, bool threads, int64_t batch, int64_t widest, int64_t weights, int64_t third)
    : threads(threads), batch(batch), rows(batch), dtype(like.scalar_type()) {
  int64_t elements = std::clamp(weights / 8, kLeastOnGpu, kMostOnGpu);
  if (threads) {
    dtype = accumulation_dtype(dtype);
    rows = std::min(batch, std::clamp((batch / 8 + 7) / 8 * 8, kLeastRows, kMostRows));
    elements = std::clamp(batch * widest / 2, kLeastInCache, kMostInCache);
  }
  columns = std::max<int64_t>(elements / rows, 1);
  // A product has the weight as one operand: a block of it is converted, and with few rows it is all there is to share.
  if (threads) columns = std::min(columns, std::max(kLeastColumns, weights / third / (2 * kTasks)));
  if (dtype != like.scalar_type()) columns = std::min(columns, std::max(kLeastConverted, kMostInCache / third));
}

int64_t Blocks::loaded(const Tensor& matrix) const {
  if (matrix.scalar_type() == dtype) return matrix.size(0);
  return std::min(matrix.size(0), std::max(kLeastConverted, kMostInCache / matrix.size(1)));
}

Tensor Blocks::buffer(const Tensor& like, int64_t rows, int64_t columns) const {
  const int64_t stride = threads ? columns : pieces(columns, kAligned) * kAligned;
  return columns_of(at::empty({rows, stride}, like.options().dtype(dtype)), {0, columns});
}

Tensor Scratch::block(const Tensor& like, at::IntArrayRef sizes) {
  const int64_t count = c10::multiply_integers(sizes);
  if (!memory_.defined() || memory_.numel() < count) memory_ = allocate(like, {count}, dtype_);
  return memory_.narrow(0, 0, count).view(sizes);
}

Total::Total(const Tensor& output, int64_t count) : output(output) {
  const auto dtype = accumulation_dtype(output.scalar_type());
  const bool itself = count == 1 && output.scalar_type() == dtype;
  parts = itself ? output.unsqueeze(0) : at::empty({count, output.size(0), output.size(1)}, output.options().dtype(dtype));
}

void Total::finish() const {
  if (!output.defined() || parts.data_ptr() == output.data_ptr()) return;
  const Tensor sum = parts.select(0, 0);
  for (int64_t part = 1; part < parts.size(0); ++part) sum.add_(parts.select(0, part));
  output.copy_(sum);
}

void add_product(const Tensor& total, const Tensor& a, const Tensor& b, bool first) {
  Tensor to = total;
  if (total.scalar_type() == a.scalar_type()) {
    first ? at::mm_out(to, a, b) : at::addmm_out(to, to, a, b);
  } else {
    first ? to.copy_(at::mm(a, b)) : to.add_(at::mm(a, b));
  }
}

Tensor as_matrix(const Tensor& tensor) {
  const auto leading = tensor.sizes().slice(0, tensor.dim() - 1);
  const Tensor matrix = tensor.reshape({c10::multiply_integers(leading), tensor.size(-1)});
  return matrix.stride(1) == 1 ? matrix : matrix.contiguous();
}

}  // namespace pylayers
