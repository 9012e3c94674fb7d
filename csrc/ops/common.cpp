#include "common.h"

#include <ATen/EmptyTensor.h>
#include <ATen/autocast_mode.h>
#include <ATen/ops/empty.h>
#include <c10/core/GradMode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <sys/mman.h>

#include <algorithm>

#include "../cuda/parts.h"

namespace pylayers {
namespace {

constexpr uintptr_t kHugePage = 2 << 20;
constexpr int64_t kHugePageBytes = 8 << 20;  // below this, malloc reuses memory that is already there

void ask_for_huge_pages(const Tensor& tensor) {
  const auto begin = (reinterpret_cast<uintptr_t>(tensor.data_ptr()) + kHugePage - 1) / kHugePage * kHugePage;
  const auto end = (reinterpret_cast<uintptr_t>(tensor.data_ptr()) + tensor.nbytes()) / kHugePage * kHugePage;
  if (end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // advice: failing is no error
}

// Two sums take fewer parts: their workspace would show beside the matrices.
int64_t cpu_parts(int64_t rows, int64_t sums) {
  return std::clamp<int64_t>(rows / (sums == 1 ? 32 : 128), 1, sums == 1 ? 128 : 32);
}

}  // namespace

bool has_cpu_memory(const Tensor& tensor) {
  using Key = c10::DispatchKey;
  const auto keys = tensor.unsafeGetTensorImpl()->key_set();
  return tensor.is_cpu() && !keys.has_any(c10::DispatchKeySet({Key::Python, Key::Functionalize, Key::FuncTorchBatched, Key::FuncTorchGradWrapper}));
}

Rows as_rows(const Tensor& tensor, int64_t dim) {
  const auto sizes = tensor.sizes();
  const auto strides = tensor.strides();
  const int64_t rows = dim ? tensor.numel() / dim : 0;
  int64_t axis = tensor.dim() - 1;
  int64_t expected = 1;  // the stride that continues the run of the axes seen so far
  for (int64_t covered = 1; covered < dim; --axis) {
    if (sizes[axis] != 1 && strides[axis] != expected) return {tensor.contiguous(), rows, dim, dim};
    covered *= sizes[axis];
    expected *= sizes[axis];
  }
  int64_t stride = -1;  // of the rows; 0 for an expanded tensor
  for (; axis >= 0; --axis) {
    if (sizes[axis] == 1) continue;
    if (stride < 0) {
      stride = expected = strides[axis];
    } else if (strides[axis] != expected) {
      return {tensor.contiguous(), rows, dim, dim};
    }
    expected *= sizes[axis];
  }
  return {tensor, rows, dim, stride < 0 ? dim : stride};
}

Tensor allocate(const Tensor& like, c10::SymIntArrayRef sizes, at::ScalarType dtype) {
  if (!has_cpu_memory(like)) return at::empty_symint(sizes, like.options().dtype(dtype).memory_format(std::nullopt));
  Tensor result = at::detail::empty_cpu(C10_AS_INTARRAYREF_SLOW(sizes), dtype);  // past the dispatcher, as torch's kernels do
  if (static_cast<int64_t>(result.nbytes()) >= kHugePageBytes) ask_for_huge_pages(result);
  return result;
}

Tensor nothing(const Tensor& like) { return at::empty({0}, like.options()); }

bool splits_for_gpu(const Tensor& tensor) { return tensor.is_cuda() || registry::emulates(registry::selected()); }

int64_t sum_parts(const Tensor& like, int64_t rows, int64_t dim, int64_t sums) {
  return splits_for_gpu(like) ? cuda_parts(rows, dim) : cpu_parts(rows, sums);
}

Tensor partial_sums(const Tensor& like, int64_t rows, int64_t dim, int64_t sums) {
  return at::empty({sums * sum_parts(like, rows, dim, sums), dim}, like.options().dtype(accumulation_dtype(like.scalar_type())));
}

bool needs_formula(const char* op, c10::ArrayRef<const Tensor*> tensors) {
  if (c10::impl::tls_is_dispatch_key_included(c10::DispatchKey::FuncTorchDynamicLayerFrontMode)) return true;
  const Tensor* first = nullptr;
  for (const auto* tensor : tensors) {
    if (!tensor->defined()) continue;
    if (tensor->_fw_grad(0).defined()) return true;
    if (!first) first = tensor;
  }
  if (registry::selected() == kDefault && (first->is_cpu() || first->is_meta())) return false;
  return first->is_meta() ? false : registry::target(op, *first).plain;
}

bool needs_gradient(c10::ArrayRef<const Tensor*> tensors) {
  if (!c10::GradMode::is_enabled()) return false;
  for (const auto* tensor : tensors)
    if (tensor->defined() && tensor->requires_grad()) return true;
  return false;
}

void check_floating(const char* op, const char* name, const Tensor& tensor) {
  const auto dtype = tensor.scalar_type();
  TORCH_CHECK_TYPE(dtype == at::kFloat || dtype == at::kBFloat16 || dtype == at::kHalf || dtype == at::kDouble, op, ": ", name,
                   " must be float64, float32, float16 or bfloat16, got ", toString(dtype));
}

void check_matches(const char* op, const char* name, const Tensor& tensor, const char* input_name, const Tensor& input) {
  TORCH_CHECK(tensor.device() == input.device(), op, ": ", name, " must be on the device of ", input_name, " (", input.device(),
              "), got ", tensor.device());
  TORCH_CHECK_TYPE(tensor.scalar_type() == input.scalar_type(), op, ": ", name, " must have the dtype of ", input_name, " (",
                   toString(input.scalar_type()), "), got ", toString(tensor.scalar_type()));
}

Tensor autocast_to(at::ScalarType dtype, const Tensor& tensor, const Tensor& input) {
  const bool both = tensor.device() == input.device() && tensor.is_floating_point() && at::isFloatingType(dtype);
  return both ? at::autocast::cached_cast(dtype, tensor, input.device().type()) : tensor;
}

at::ScalarType autocast_dtype(const Tensor& input) { return at::autocast::get_autocast_dtype(input.device().type()); }

}  // namespace pylayers
