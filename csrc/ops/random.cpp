#include "random.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/version.h>

#include <limits>
#include <mutex>

#include "../philox.h"

namespace pylayers {
namespace {

constexpr int64_t kSeeds = std::numeric_limits<int64_t>::max();

// Where a number that is drawn now would be the same number in all later runs, or in all examples of a batch.
bool is_recorded(const Tensor& like) {
  constexpr c10::DispatchKeySet traced({c10::DispatchKey::Python, c10::DispatchKey::Functionalize});
  for (const auto key : {c10::DispatchKey::Python, c10::DispatchKey::Functionalize, c10::DispatchKey::FuncTorchDynamicLayerFrontMode})
    if (c10::impl::tls_is_dispatch_key_included(key)) return true;
  return like.unsafeGetTensorImpl()->key_set().has_any(traced);
}

// Older versions of torch do not say, and are taken at their worst: one more launch.
bool may_be_captured(const Tensor& like) {
#if TORCH_VERSION_MAJOR > 2 || TORCH_VERSION_MINOR >= 13
  const c10::impl::VirtualGuardImpl guard(like.device().type());
  return guard.isStreamCapturing(guard.getStream(like.device()));
#else
  return like.defined();
#endif
}

Tensor number(uint64_t value) {
  Tensor result = at::detail::empty_cpu({}, at::kLong);
  *result.mutable_data_ptr<int64_t>() = static_cast<int64_t>(value);
  return result;
}

}  // namespace

uint64_t mix(uint64_t x) {
  x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9;
  x = (x ^ x >> 27) * 0x94D049BB133111EB;
  return x ^ x >> 31;
}

uint64_t draw_bits(at::Generator cuda) {
  const std::lock_guard<std::mutex> lock(cuda.mutex());
  const uint64_t seed = cuda.current_seed(), offset = cuda.get_offset();
  cuda.set_offset(offset + 4);
  return mix(seed ^ mix(offset + kPhiloxStep0));
}

Tensor draw_seed(const char* op, const Tensor& like, const Generator& generator) {
  const auto options = like.options().dtype(at::kLong).memory_format(std::nullopt);
  if (like.is_meta()) return at::empty({1}, options);
  const bool given = generator && generator->defined();
  const at::Device source = given ? generator->device() : like.device();
  TORCH_CHECK(source.is_cpu() || source == like.device(), op, ": generator must be one of the CPU or of the device of input (",
              like.device(), "), got one on ", source);
  const bool captured = like.is_cuda() && !is_recorded(like) && may_be_captured(like);
  if (is_recorded(like) || (captured && source.is_cuda())) return at::randint(kSeeds, {1}, generator, options);
#if TORCH_VERSION_MAJOR > 2 || TORCH_VERSION_MINOR >= 13
  TORCH_CHECK(!captured, op, ": generator must be one of the device of input (", like.device(),
              ") where a CUDA graph is captured, got one on ", source);
#endif
  if (source.is_cpu()) {  // as torch.randint draws it
    auto* cpu = at::get_generator_or_default<at::CPUGeneratorImpl>(generator, at::detail::getDefaultCPUGenerator());
    const std::lock_guard<std::mutex> lock(cpu->mutex_);
    return number(cpu->random64() % kSeeds);
  }
  return number(draw_bits(given ? *generator : at::globalContext().defaultGenerator(source)) % kSeeds);
}

std::array<Tensor, 4> philox(const Tensor& counter, const Tensor& seed) {
  constexpr int64_t low_word = 0xffffffff;
  const auto low = [](const Tensor& x) { return x & low_word; };
  const auto high = [](const Tensor& x) { return x.bitwise_right_shift(32) & low_word; };
  Tensor a = low(counter), b = high(counter), c = at::zeros_like(a), d = c, key = low(seed), other_key = high(seed);
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const Tensor p = a * int64_t{kPhiloxMultiplier0}, q = c * int64_t{kPhiloxMultiplier1};  // wrap around
    a = high(q) ^ b ^ key;
    b = low(q);
    c = high(p) ^ d ^ other_key;
    d = low(p);
    key = low(key + int64_t{kPhiloxStep0});
    other_key = low(other_key + int64_t{kPhiloxStep1});
  }
  return {a, b, c, d};
}

}  // namespace pylayers
