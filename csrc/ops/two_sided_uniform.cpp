#include <ATen/CPUGeneratorImpl.h>
#include <ATen/MemoryOverlap.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/where.h>

#include <limits>
#include <mutex>

#include "../philox.h"
#include "common.h"
#include "op.h"
#include "ops.h"
#include "random.h"

namespace pylayers {
namespace {

constexpr auto kOp = "two_sided_uniform_";

double largest(at::ScalarType dtype) {
  switch (dtype) {
    case at::kDouble: return std::numeric_limits<double>::max();
    case at::kHalf: return 65504;
    case at::kBFloat16: return std::numeric_limits<c10::BFloat16>::max();
    default: return std::numeric_limits<float>::max();
  }
}

void check(const Tensor& self, double low, double high, double p_zero) {
  check_floating(kOp, "tensor", self);
  TORCH_CHECK_VALUE(low >= 0 && low <= high, kOp, ": low and high must hold 0 <= low <= high, got low=", low, ", high=", high);
  TORCH_CHECK_VALUE(high <= largest(self.scalar_type()), kOp, ": high must be at most ", largest(self.scalar_type()),
                    ", the largest ", toString(self.scalar_type()), ", got ", high);
  TORCH_CHECK_VALUE(p_zero >= 0 && p_zero <= 1, kOp, ": p_zero must be a probability between 0 and 1, got ", p_zero);
}

// 64 bits, drawn without asking a device.
int64_t draw_seed(const Generator& generator) {
  if (!generator || !generator->defined() || generator->device().is_cpu()) {
    auto* cpu = at::get_generator_or_default<at::CPUGeneratorImpl>(generator, at::detail::getDefaultCPUGenerator());
    const std::lock_guard<std::mutex> lock(cpu->mutex_);
    return static_cast<int64_t>(cpu->random64());
  }
  TORCH_CHECK(generator->device().is_cuda(), kOp, ": generator must be one of the CPU or of a CUDA device, got one on ",
              generator->device());
  return static_cast<int64_t>(draw_bits(*generator));
}

Tensor formula(const Tensor& self, int64_t seed, double low, double high, double p_zero) {
  const auto dtype = accumulation_dtype(self.scalar_type());
  const auto [a, b, c, d] = philox(at::arange(self.numel(), self.options().dtype(at::kLong)), at::scalar_tensor(seed, at::kLong));
  const Tensor u = dtype == at::kDouble ? (b.bitwise_left_shift(21) | c.bitwise_right_shift(11)).to(dtype) * 0x1p-53
                                        : b.bitwise_right_shift(8).to(dtype) * 0x1p-24;
  const Tensor number = u * (high - low) + low;
  const Tensor signed_number = at::where((a & 1) == 1, -number, number);
  return signed_number.masked_fill(a.bitwise_right_shift(1) < int64_t{philox_threshold(p_zero)}, 0).to(self.scalar_type()).view(self.sizes());
}

void skip(const Tensor& self, double low, double high, double p_zero, Generator) { check(self, low, high, p_zero); }

void run(const Tensor& self, double low, double high, double p_zero, Generator generator) {
  check(self, low, high, p_zero);
  const int64_t seed = draw_seed(generator);
  if (self.numel() == 0) return;
  at::assert_no_internal_overlap(self);
  const Target target = registry::target(kOp, self);
  if (target.plain) {
    self.copy_(formula(self, seed, low, high, p_zero));
    return;
  }
  const Tensor y = self.is_contiguous() ? self : allocate_like(self);
  kernels::two_sided_uniform(target, Argument::output(y, {y.numel()}), seed, low, high, p_zero);
  if (!y.is_same(self)) self.copy_(y);
}

Op<decltype(two_sided_uniform_)> op;

// Numbers that are drawn have no derivative: as in torch.nn.init, autograd sees a write and nothing else.
void below_autograd(const Tensor& self, double low, double high, double p_zero, Generator generator) {
  const at::AutoDispatchBelowAutograd guard;
  op(self, low, high, p_zero, std::move(generator));
}

void count_version(const Tensor& self, double low, double high, double p_zero, Generator generator) {
  {
    const at::AutoDispatchBelowADInplaceOrView guard;
    op(self, low, high, p_zero, std::move(generator));
  }
  self.unsafeGetTensorImpl()->bump_version();
}

void refuse_batches(const Tensor&, double, double, double, Generator) {
  TORCH_CHECK(false, kOp, ": vmap cannot batch it, call it outside");
}

}  // namespace

void two_sided_uniform_(const Tensor& self, double low, double high, double p_zero, Generator generator) {
  op(self, low, high, p_zero, std::move(generator));
}

TORCH_LIBRARY_FRAGMENT(pylayers, m) {
  op.define_kernel(m, "two_sided_uniform_(Tensor(a!) self, float low=5.0, float high=10.0, float p_zero=0.5, *, "
                      "Generator? generator=None) -> ()",
                   run, skip, {at::Tag::nondeterministic_seeded});
  m.impl("two_sided_uniform_", torch::dispatch(c10::DispatchKey::Autograd, below_autograd));
  m.impl("two_sided_uniform_", torch::dispatch(c10::DispatchKey::ADInplaceOrView, count_version));
  m.impl("two_sided_uniform_", torch::dispatch(c10::DispatchKey::FuncTorchBatched, refuse_batches));
}

}  // namespace pylayers
