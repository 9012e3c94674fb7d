// One of our ops in the dispatcher: defined with everything that serves it, then called like a function.
#pragma once

#include <c10/util/SmallVector.h>
#include <torch/library.h>

#include <cstring>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "common.h"

namespace pylayers {

// The tensors in the arguments of an op; undefined ones where there is none.
using Seen = c10::SmallVector<const Tensor*, 8>;
inline void see(Seen& seen, const Tensor& tensor) { seen.push_back(&tensor); }
inline void see(Seen& seen, const OptionalTensor& tensor) { seen.push_back(&value(tensor)); }
inline void see(Seen& seen, at::TensorList tensors) {
  for (const Tensor& tensor : tensors) seen.push_back(&tensor);
}
template <class Other>
void see(Seen&, const Other&) {}

template <class... Arguments>
Seen tensors_in(const Arguments&... arguments) {
  Seen seen;
  (see(seen, arguments), ...);
  return seen;
}

template <class Signature>
class Op;

template <class Result, class... Arguments>
class Op<Result(Arguments...)> {
 public:
  using Function = Result (*)(Arguments...);

  explicit Op(const char* library = "pylayers") : library_(library) {}  // the name given to TORCH_LIBRARY

  Result operator()(Arguments... arguments) const { return handle_->call(std::forward<Arguments>(arguments)...); }

  // What users call. `run` decides between formula, autograd node and kernel. `autocast` is left out where autocast casts nothing.
  void define_public(torch::Library& m, const char* schema, Function run, Function autocast = nullptr,
                     const std::vector<at::Tag>& tags = {}) {
    define(m, schema, tags);
    for (const auto key : {c10::DispatchKey::CompositeExplicitAutograd, c10::DispatchKey::Autograd, c10::DispatchKey::FuncTorchBatched})
      implement(m, key, run);
    for (const auto key : {c10::DispatchKey::AutocastCPU, c10::DispatchKey::AutocastCUDA})
      if (autocast) implement(m, key, autocast);
  }

  // What runs kernels, below autograd. `allocate` makes the outputs; it is all that tensors without memory need.
  void define_kernel(torch::Library& m, const char* schema, Function run, Function allocate, const std::vector<at::Tag>& tags = {}) {
    define(m, schema, tags);
    implement(m, c10::DispatchKey::CompositeExplicitAutograd, run);
    implement(m, c10::DispatchKey::Meta, allocate);
  }

  // The same for a backward of the op `name`, with the formula that stands in where it is itself to be differentiated or batched.
  void define_backward(torch::Library& m, const char* name, const char* schema, Function run, Function allocate, Function formula) {
    define_kernel(m, schema, run, allocate);
    implement(m, c10::DispatchKey::FuncTorchBatched, formula);
    // Gradients that are batched by is_grads_batched: torch batches ops by itself, but none that take lists.
    if constexpr ((std::is_same_v<Arguments, at::TensorList> || ...)) implement(m, c10::DispatchKey::Batched, formula);
    implement(m, c10::DispatchKey::Autograd, [this, name, formula](Arguments... arguments) -> Result {
      const Seen seen = tensors_in(arguments...);
      if (needs_formula(name, seen) || needs_gradient(seen))
        return formula(std::forward<Arguments>(arguments)...);
      const at::AutoDispatchBelowADInplaceOrView guard;
      return (*this)(std::forward<Arguments>(arguments)...);
    });
  }

 private:
  void define(torch::Library& m, const char* schema, std::vector<at::Tag> tags = {}) {
    tags.push_back(at::Tag::pt2_compliant_tag);
    m.def(schema, std::as_const(tags));
    name_ = std::string(schema, std::strchr(schema, '('));
    handle_ = c10::Dispatcher::singleton().findSchemaOrThrow((library_ + "::" + name_).c_str(), "").template typed<Result(Arguments...)>();
  }

  template <class Implementation>
  void implement(torch::Library& m, c10::DispatchKey key, Implementation implementation) {
    m.impl(name_.c_str(), torch::dispatch(key, std::move(implementation)));
  }

  std::string library_, name_;
  std::optional<c10::TypedOperatorHandle<Result(Arguments...)>> handle_;
};

}  // namespace pylayers
