#include "table.h"

#include <ATen/ops/as_strided.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/Stream.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>

#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>

namespace pylayers {
namespace {

enum BuiltIn : BackendId { kCpu, kCuda, kTriton, kReference };

std::vector<Backend>& table() {
  static std::vector<Backend> backends = {{"cpu", 0, true}, {"cuda", 0, true}, {"triton", 0, true}, {"reference", ~0ull, true}};
  return backends;
}

std::vector<KernelEntry*>& entries() {
  static std::vector<KernelEntry*> all;
  return all;
}

std::atomic<BackendId> chosen{kDefault};
thread_local BackendId chosen_here = kDefault;
std::atomic<bool> poison{false};

// Never destroyed: what it calls may be gone by then.
std::shared_ptr<const Observer>& observer() {
  static auto* current = new std::shared_ptr<const Observer>;
  return *current;
}

KernelEntry* find_entry(const std::string& kernel) {
  for (auto* entry : entries())
    if (entry->name() == kernel) return entry;
  return nullptr;
}

std::string detect_capability() {
  const char* forced = std::getenv("PYLAYERS_CPU_CAPABILITY");
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const std::string best = avx512 ? "avx512" : avx2 ? "avx2" : "baseline";
  if (forced == nullptr || best == forced) return best;
  TORCH_CHECK_VALUE(!std::strcmp(forced, "baseline") || !std::strcmp(forced, "avx2") || !std::strcmp(forced, "avx512"),
                    "PYLAYERS_CPU_CAPABILITY must be baseline, avx2 or avx512, got ", forced);
  if (!std::strcmp(forced, "baseline") || best == "avx512") return forced;
  TORCH_WARN("PYLAYERS_CPU_CAPABILITY=", forced, " is ignored: this processor has ", best);
  return best;
}

Dtype dtype_of(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kDouble: return Dtype::float64;
    case at::kHalf: return Dtype::float16;
    case at::kBFloat16: return Dtype::bfloat16;
    case at::kLong: return Dtype::int64;
    default: return Dtype::float32;
  }
}

Argument argument(const at::Tensor& tensor, void* data, at::IntArrayRef size, at::IntArrayRef stride, int64_t offset) {
  Argument result;
  result.tensor = &tensor;
  result.offset = offset;
  auto& view = result.view;
  view.data = static_cast<char*>(data) + offset * static_cast<int64_t>(tensor.element_size());
  view.dtype = dtype_of(tensor);
  view.dims = static_cast<int>(size.size());
  for (int i = view.dims - 1; i >= 0; --i) {
    view.size[i] = size[i];
    view.stride[i] = !stride.empty() ? stride[i] : i + 1 == view.dims ? 1 : view.stride[i + 1] * size[i + 1];
  }
  return result;
}

BackendId default_backend(c10::DeviceType type) {
  for (BackendId id : {kCpu, kCuda, kTriton}) {
    if (id == kTriton && type == c10::DeviceType::CPU) continue;  // served by the interpreter, only where it is asked for
    if (id == kCuda && type == c10::DeviceType::CPU) continue;    // likewise emulated
    if (table()[id].serves(type)) return id;
  }
  return kReference;
}

}  // namespace

Argument Argument::input(const at::Tensor& tensor, at::IntArrayRef size, at::IntArrayRef stride, int64_t offset) {
  if (!tensor.defined()) return {};
  return argument(tensor, const_cast<void*>(tensor.const_data_ptr()), size, stride, offset);
}

Argument Argument::output(const at::Tensor& tensor, at::IntArrayRef size, at::IntArrayRef stride, int64_t offset) {
  if (!tensor.defined()) return {};
  Argument result = argument(tensor, tensor.mutable_data_ptr(), size, stride, offset);
  result.written = true;
  return result;
}

Argument::operator Input() const {
  Input input;
  input.data = view.data;
  input.dtype = view.dtype;
  input.dims = view.dims;
  std::memcpy(input.size, view.size, sizeof(view.size));
  std::memcpy(input.stride, view.stride, sizeof(view.stride));
  return input;
}

at::Tensor Argument::as_tensor() const {
  return at::as_strided(*tensor, {view.size, static_cast<size_t>(view.dims)}, {view.stride, static_cast<size_t>(view.dims)},
                        tensor->storage_offset() + offset);
}

namespace registry {

const std::vector<Backend>& backends() { return table(); }

BackendId find(const std::string& name) {
  std::string known;
  for (size_t i = 0; i < table().size(); ++i) {
    if (table()[i].name == name) return static_cast<BackendId>(i);
    known += (i ? ", " : "") + table()[i].name;
  }
  TORCH_CHECK_VALUE(false, "backend: there is no backend '", name, "'; there are ", known);
}

BackendId add(const std::string& name) {
  for (size_t i = 0; i < table().size(); ++i)
    if (table()[i].name == name) return static_cast<BackendId>(i);
  TORCH_CHECK(table().size() < kMaxBackends, "register_kernels: no room for more than ", kMaxBackends, " backends");
  table().push_back({name});
  return static_cast<BackendId>(table().size()) - 1;
}

void serve(BackendId backend, c10::DeviceType type, bool on) {
  const uint64_t bit = 1ull << static_cast<int>(type);
  auto& devices = table().at(backend).devices;
  devices = on ? devices | bit : devices & ~bit;
}

void select(BackendId backend) { chosen = backend; }

BackendId selected() { return chosen_here != kDefault ? chosen_here : chosen.load(std::memory_order_relaxed); }

Target target(const char* op, const at::Tensor& tensor) {
  const auto type = tensor.device().type();
  BackendId id = selected();
  if (id == kDefault) {
    id = default_backend(type);
    if (id == kReference) {
      TORCH_WARN_ONCE(op, ": there is no kernel for a tensor on ", tensor.device(), ", plain PyTorch is used");
    }
  } else if (!table()[id].serves(type)) {
    std::string able;
    for (const auto& backend : table())
      if (backend.serves(type)) able += (able.empty() ? "" : ", ") + backend.name;
    TORCH_CHECK(false, op, ": backend '", table()[id].name, "' cannot serve a tensor on ", tensor.device(), "; these can: ", able);
  }
  return {id, tensor.device(), id == kReference};
}

std::vector<std::string> kernels() {
  std::vector<std::string> names;
  for (const auto* entry : entries()) names.emplace_back(entry->name());
  return names;
}

std::vector<std::string> kernels_of(BackendId backend) {
  std::vector<std::string> names;
  for (const auto* entry : entries()) {
    const auto& implementation = entry->implementations_.at(backend);
    if (implementation.native || implementation.emulated || implementation.boxed) names.emplace_back(entry->name());
  }
  return names;
}

void set(const std::string& kernel, BackendId backend, Boxed function) {
  auto* entry = find_entry(kernel);
  TORCH_CHECK_VALUE(entry, "register_kernels: there is no kernel '", kernel, "'");
  entry->implementations_.at(backend) = {nullptr, false, std::move(function)};
}

std::string cpu_capability() {
  static const std::string capability = detect_capability();
  return capability;
}

void poison_outputs(bool on) { poison = on; }

std::atomic<uint64_t> observed{0};

void observe(const std::vector<BackendId>& backends, Observer one) {
  uint64_t bits = 0;
  for (const auto backend : backends) bits |= 1ull << backend;
  std::atomic_store(&observer(), std::make_shared<const Observer>(std::move(one)));
  observed = bits;
}

void emulate(const std::string& kernel, void* on_cuda) {
  auto* entry = find_entry(kernel);
  TORCH_CHECK_VALUE(entry, "emulate: there is no kernel '", kernel, "'");
  entry->implementations_.at(kCuda).emulated = on_cuda;
}

Scope::Scope(BackendId backend) : before_(chosen_here) { chosen_here = backend; }
Scope::~Scope() { chosen_here = before_; }

}  // namespace registry

KernelEntry::KernelEntry(const char* name, void* cpu, void* cuda) : name_(name) {
  entries().push_back(this);
  implementations_[kCpu].native = cpu;
  implementations_[kCuda].native = cuda;
  implementations_[kCuda].takes_stream = true;
  if (cpu) registry::serve(kCpu, c10::DeviceType::CPU, true);
  if (cuda) registry::serve(kCuda, c10::DeviceType::CUDA, true);
}

const KernelEntry::Implementation* KernelEntry::find(const Target& target) const {
  const auto exists = [&](const Implementation& one) { return one.native_on(target.device) || one.boxed; };
  const auto& own = implementations_.at(target.backend);
  if (exists(own)) return &own;
  if (table()[target.backend].complete) return nullptr;
  const auto& fallback = implementations_.at(default_backend(target.device.type()));
  return exists(fallback) ? &fallback : nullptr;
}

bool KernelEntry::shared_by_threads(const Target& target) const {
  const auto* implementation = find(target);
  return implementation && target.device.is_cpu() && !implementation->boxed && !implementation->takes_stream;
}

const KernelEntry::Implementation& KernelEntry::resolve(const Target& target) const {
  const auto* implementation = find(target);
  TORCH_CHECK(implementation, name_, ": backend '", table()[target.backend].name, "' has no such kernel");
  return *implementation;
}

void on_stream(c10::Device device, const std::function<void(cuda::Stream)>& launch) {
  if (device.is_cpu()) return launch(nullptr);  // emulated
  const c10::DeviceGuard guard(device);
  const auto stream = c10::impl::VirtualGuardImpl(device.type()).getStream(device);
  launch(static_cast<cuda::Stream>(stream.native_handle()));
}

void prepare_outputs(std::initializer_list<const Argument*> arguments) {
  if (!poison.load(std::memory_order_relaxed)) return;
  for (const auto* output : arguments) {
    if (!output || !output->tensor || !output->written) continue;
    bool also_input = false;
    for (const auto* other : arguments)
      also_input |= other && !other->written && other->view.data == output->view.data;
    if (!also_input) output->as_tensor().fill_(std::nan(""));
  }
}

void run_observed(const char* kernel, const std::vector<const Argument*>& arguments, const std::function<void()>& run) {
  const auto now = std::atomic_load(&observer());
  now->before(kernel, arguments);
  try {
    run();
  } catch (...) {
    now->after(kernel, true);
    throw;
  }
  now->after(kernel, false);
}

}  // namespace pylayers
