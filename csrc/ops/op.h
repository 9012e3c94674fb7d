// One of our ops in the dispatcher: defined with everything that serves it, then called like a function.
#pragma once

#include <torch/library.h>

#include <cstring>
#include <optional>
#include <string>

#include "common.h"

namespace pylayers {

// The tensor in an argument of an op; undefined where there is none.
inline const Tensor& tensor_in(const Tensor& tensor) { return tensor; }
inline const Tensor& tensor_in(const OptionalTensor& tensor) { return value(tensor); }
template <class Other>
const Tensor& tensor_in(const Other&) { return value(std::nullopt); }

template <class Signature>
class Op;

template <class Result, class... Arguments>
class Op<Result(Arguments...)> {
 public:
  using Function = Result (*)(Arguments...);

  explicit Op(const char* library = "pylayers") : library_(library) {}  // the name given to TORCH_LIBRARY

  Result operator()(Arguments... arguments) const { return handle_->call(std::forward<Arguments>(arguments)...); }

  // What users call. `run` decides between formula, autograd node and kernel. `autocast` is left out where autocast casts nothing.
  void define_public(torch::Library& m, const char* schema, Function run, Function autocast = nullptr) {
    define(m, schema);
    for (const auto key : {c10::DispatchKey::CompositeExplicitAutograd, c10::DispatchKey::Autograd, c10::DispatchKey::FuncTorchBatched})
      implement(m, key, run);
    for (const auto key : {c10::DispatchKey::AutocastCPU, c10::DispatchKey::AutocastCUDA})
      if (autocast) implement(m, key, autocast);
  }

  // What runs kernels, below autograd. `allocate` makes the outputs; it is all that tensors without memory need.
  void define_kernel(torch::Library& m, const char* schema, Function run, Function allocate) {
    define(m, schema);
    implement(m, c10::DispatchKey::CompositeExplicitAutograd, run);
    implement(m, c10::DispatchKey::Meta, allocate);
  }

  // The same for a backward of the op `name`, with the formula that stands in where it is itself to be differentiated or batched.
  void define_backward(torch::Library& m, const char* name, const char* schema, Function run, Function allocate, Function formula) {
    define_kernel(m, schema, run, allocate);
    implement(m, c10::DispatchKey::FuncTorchBatched, formula);
    implement(m, c10::DispatchKey::Autograd, [this, name, formula](Arguments... arguments) -> Result {
      if (needs_formula(name, {&tensor_in(arguments)...}) || needs_gradient({&tensor_in(arguments)...}))
        return formula(std::forward<Arguments>(arguments)...);
      const at::AutoDispatchBelowADInplaceOrView guard;
      return (*this)(std::forward<Arguments>(arguments)...);
    });
  }

 private:
  void define(torch::Library& m, const char* schema) {
    m.def(schema, {at::Tag::pt2_compliant_tag});
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
