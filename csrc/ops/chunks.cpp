#include "chunks.h"

#include <ATen/ops/mm.h>

#include "product.h"

namespace pylayers {
namespace {

// So many rows that reading and writing the gradient of the weight, to which each chunk adds, takes little of the time of its products.
constexpr int64_t kCpuBytes = 64 << 20, kLeastOnCpu = 512, kMostOnCpu = 2048, kCpuMultiple = 64;
constexpr int64_t kGpuBytes = 1 << 30, kLeastOnGpu = 2048, kMostOnGpu = 8192, kGpuMultiple = 256;
constexpr int64_t kConverted = 1 << 20;  // numbers of the weight at a time, converted or beside a gradient that is: 4 MB
constexpr int64_t kAdded = 1 << 24;      // of its gradient, where that is added in a second step

}  // namespace

int64_t rows_at_once(const Tensor& like, int64_t rows, int64_t classes, int64_t inner, bool sums, int64_t asked, int64_t matrices) {
  if (asked) return std::min(asked, rows);
  const bool gpu = like.is_cuda();
  const auto acc = accumulation_dtype(like.scalar_type());
  const int64_t copy = gpu && acc != like.scalar_type() ? like.element_size() : 0;  // of the gradient, as an operand
  const int64_t budget = std::max(gpu ? kGpuBytes : kCpuBytes, sums ? classes * inner * static_cast<int64_t>(like.element_size()) : 0);
  const int64_t fit = budget / (classes * (matrices * static_cast<int64_t>(c10::elementSize(acc)) + copy));
  const int64_t multiple = gpu ? kGpuMultiple : kCpuMultiple;
  const int64_t most = gpu ? std::clamp(fit, kLeastOnGpu, kMostOnGpu) : std::clamp(fit, kLeastOnCpu, kMostOnCpu);
  return std::min(most / multiple * multiple, rows);
}

Chunk::Chunk(const Tensor& like, int64_t rows, int64_t most, int64_t inner)
    : acc_(accumulation_dtype(like.scalar_type())), sums_(sums_bfloat16(like)),
      converts_(!like.is_cuda() && acc_ != like.scalar_type() && !sums_), mixes_(like.is_cuda() && acc_ != like.scalar_type()),
      rows_(acc_), weights_(acc_), gradients_(sums_ ? like.scalar_type() : acc_), memory_(acc_) {
  memory_.block(like, {rows, most});  // once for all
  if (converts_) rows_.block(like, {rows, inner});
}

void Chunk::take(const Tensor& x) { x_ = converts_ ? rows_.load(x) : x; }

template <class Body>
void Chunk::for_blocks(const Tensor& w, const Body& body) {
  const int64_t classes = w.size(0), size = converts_ || sums_ ? std::max<int64_t>(kConverted / std::max<int64_t>(w.size(1), 1), 64) : classes;
  for (int64_t i = 0; i < pieces(classes, size); ++i) {
    const Range range = piece(classes, size, i);
    const Tensor block = rows_of(w, range);
    body(range, converts_ ? weights_.load(block) : block);
  }
}

Tensor Chunk::logits(const Tensor& w, const Tensor& bias) {
  const Tensor all = memory_.block(x_, {x_.size(0), w.size(0)});
  for_blocks(w, [&](Range range, const Tensor& own) {
    Tensor to = columns_of(all, range);
    if (mixes_) at::mm_out(to, x_, own.t(), acc_);
    else if (!bias.defined()) multiply_to(to, x_, own.t());
    else multiply_to(to, x_, own.t(), 1, /*beta=*/1, bias.narrow(0, range.first, range.count()));
    if (mixes_ && bias.defined()) to.add_(bias);
  });
  return all;
}

void Chunk::add_gradients(const Tensor& d, const Tensor& w, const Tensor& dx, bool first_of_dx, const Tensor& dw, bool first_of_dw) {
  if (mixes_) {
    const Tensor own = d.to(w.scalar_type());
    if (dx.defined()) {
      Tensor to = dx;
      first_of_dx ? at::mm_out(to, own, w, acc_) : to.add_(at::mm(own, w, acc_));
    }
    const int64_t size = std::max<int64_t>(kAdded / w.size(1), 1);
    for (int64_t i = 0; dw.defined() && i < pieces(w.size(0), size); ++i) {
      const Range range = piece(w.size(0), size, i);
      Tensor to = rows_of(dw, range);
      const Tensor columns = columns_of(own, range).t();
      first_of_dw ? at::mm_out(to, columns, x_, acc_) : to.add_(at::mm(columns, x_, acc_));
    }
    return;
  }
  for_blocks(w, [&](Range range, const Tensor& own) {
    const Tensor columns = gradients_.load(columns_of(d, range));
    if (dx.defined()) multiply_to(dx, columns, own, 1, /*beta=*/first_of_dx && range.first == 0 ? 0 : 1);
    if (dw.defined()) multiply_to(rows_of(dw, range), columns.t(), x_, 1, /*beta=*/first_of_dw ? 0 : 1);
  });
}

}  // namespace pylayers
