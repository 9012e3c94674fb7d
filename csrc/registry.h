// The kernel table: which implementation serves (kernel, device) now.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>

#include <array>
#include <atomic>
#include <functional>
#include <string>
#include <type_traits>
#include <vector>

#include "kernels.h"

namespace pylayers {

// A tensor as a kernel is to see it: native kernels take the view, Python kernels a tensor with the view's sizes and strides.
struct PYLAYERS_API Argument {
  Argument() = default;
  // [size…] of a contiguous tensor, or of `tensor` from element `offset` on with the given strides.
  static Argument input(const at::Tensor& tensor, at::IntArrayRef size, at::IntArrayRef stride = {}, int64_t offset = 0);
  static Argument output(const at::Tensor& tensor, at::IntArrayRef size, at::IntArrayRef stride = {}, int64_t offset = 0);

  operator Output() const { return view; }
  operator Input() const;
  at::Tensor as_tensor() const;

  View<void*> view;
  const at::Tensor* tensor = nullptr;
  int64_t offset = 0;
  bool written = false;
};

// A backend of Python functions, called as f(outputs…, inputs…, scalars…) with None for what is left out.
using Boxed = std::function<void(const std::vector<c10::IValue>&)>;

// What emulation does around a kernel call: before it, and after it with whether it threw. May throw instead.
struct Observer {
  std::function<void(const char* kernel, const std::vector<const Argument*>& arguments)> before;
  std::function<void(const char* kernel, bool failed)> after;
};

using BackendId = int;
inline constexpr BackendId kDefault = -1;
inline constexpr int kMaxBackends = 16;

struct Backend {
  std::string name;
  uint64_t devices = 0;  // bit i: serves c10::DeviceType(i)
  bool complete = false;  // false: kernels that it lacks are served by the device's default backend
  bool serves(c10::DeviceType type) const { return devices >> static_cast<int>(type) & 1; }
};

// The backend chosen for one call of an op, and where it runs. plain: no kernel, the differentiable formula.
struct Target {
  BackendId backend;
  c10::Device device;
  bool plain;
};

namespace registry {

PYLAYERS_API const std::vector<Backend>& backends();
PYLAYERS_API BackendId find(const std::string& name);                      // ValueError for an unknown name
PYLAYERS_API BackendId add(const std::string& name);                       // finds or makes it
PYLAYERS_API void serve(BackendId backend, c10::DeviceType type, bool on);
PYLAYERS_API void select(BackendId backend);                               // for the whole process, kDefault undoes it
PYLAYERS_API BackendId selected();
PYLAYERS_API Target target(const char* op, const at::Tensor& tensor);      // RuntimeError if the selected backend cannot
PYLAYERS_API std::vector<std::string> kernels();
PYLAYERS_API std::vector<std::string> kernels_of(BackendId backend);
PYLAYERS_API void set(const std::string& kernel, BackendId backend, Boxed function);
PYLAYERS_API std::string cpu_capability();                                 // "baseline", "avx2" or "avx512"
PYLAYERS_API void poison_outputs(bool on);                                 // fill outputs with NaN before every kernel

// Emulation: calls of these backends for CPU tensors are observed, and the kernels of "cuda" for them set (null: none).
PYLAYERS_API void observe(const std::vector<BackendId>& backends, Observer observer);
PYLAYERS_API void emulate(const std::string& kernel, void* on_cuda);
extern PYLAYERS_API std::atomic<uint64_t> observed;  // bit i: backend i
inline bool emulates(BackendId backend) { return backend >= 0 && observed.load(std::memory_order_relaxed) >> backend & 1; }

// Within its life, calls of this thread are served by `backend`: a backward runs where its forward ran.
class PYLAYERS_API Scope {
 public:
  explicit Scope(BackendId backend);
  ~Scope();
  Scope(const Scope&) = delete;

 private:
  BackendId before_;
};

}  // namespace registry

class PYLAYERS_API KernelEntry {
 public:
  KernelEntry(const char* name, void* cpu, void* cuda);
  bool has(const Target& target) const { return find(target) != nullptr; }
  // True where several threads may call it at once: compiled code on the CPU, which nobody watches.
  bool shared_by_threads(const Target& target) const;
  const char* name() const { return name_; }

 protected:
  struct Implementation {
    void* native = nullptr;
    bool takes_stream = false;
    Boxed boxed;
    void* emulated = nullptr;  // takes a stream too, and memory of the CPU
    void* native_on(c10::Device device) const { return takes_stream && device.is_cpu() ? emulated : native; }
  };
  const Implementation* find(const Target& target) const;
  const Implementation& resolve(const Target& target) const;

 private:
  friend void registry::set(const std::string&, BackendId, Boxed);
  friend void registry::emulate(const std::string&, void*);
  friend std::vector<std::string> registry::kernels_of(BackendId);
  const char* name_;
  std::array<Implementation, kMaxBackends> implementations_;
};

// Runs `launch(stream)` with the device current that the kernel is to run on.
PYLAYERS_API void on_stream(c10::Device device, const std::function<void(cuda::Stream)>& launch);
PYLAYERS_API void prepare_outputs(std::initializer_list<const Argument*> arguments);
PYLAYERS_API void run_observed(const char* kernel, const std::vector<const Argument*>& arguments,
                               const std::function<void()>& run);

template <class Signature>
class Kernel;

template <class... Parameters>
class Kernel<void(Parameters...)> : public KernelEntry {
 public:
  using OnCpu = void (*)(Parameters...);
  using OnCuda = void (*)(cuda::Stream, Parameters...);
  Kernel(const char* name, OnCpu cpu, OnCuda cuda)
      : KernelEntry(name, reinterpret_cast<void*>(cpu), reinterpret_cast<void*>(cuda)) {}

  template <class... Arguments>
  void operator()(const Target& target, const Arguments&... arguments) const {
    static_assert(sizeof...(Arguments) == sizeof...(Parameters), "a kernel takes every argument of ops.def");
    const auto& implementation = resolve(target);
    prepare_outputs({as_argument(arguments)...});
    if (registry::emulates(target.backend) && target.device.is_cpu())
      return run_observed(name(), {as_argument(arguments)...}, [&] { run(implementation, target, arguments...); });
    run(implementation, target, arguments...);
  }

 private:
  template <class... Arguments>
  static void run(const Implementation& implementation, const Target& target, const Arguments&... arguments) {
    void* native = implementation.native_on(target.device);
    if (implementation.boxed) {
      implementation.boxed({boxed(arguments)...});
    } else if (implementation.takes_stream) {
      auto kernel = reinterpret_cast<OnCuda>(native);
      on_stream(target.device, [&](cuda::Stream stream) { kernel(stream, static_cast<Parameters>(arguments)...); });
    } else {
      reinterpret_cast<OnCpu>(native)(static_cast<Parameters>(arguments)...);
    }
  }
  static const Argument* as_argument(const Argument& argument) { return &argument; }
  template <class Scalar>
  static const Argument* as_argument(const Scalar&) { return nullptr; }
  static c10::IValue boxed(const Argument& argument) {
    return argument.tensor ? c10::IValue(argument.as_tensor()) : c10::IValue();
  }
  template <class Scalar>
  static c10::IValue boxed(const Scalar& scalar) { return c10::IValue(scalar); }
};

namespace kernels {
#define KERNEL(name, ...) extern PYLAYERS_API Kernel<void(__VA_ARGS__)> name;
#include PYLAYERS_OPS
#undef KERNEL
}  // namespace kernels

}  // namespace pylayers
