#include "autograd.h"

#include <ATen/ops/alias.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>

#include "../registry.h"

namespace pylayers {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

const at::Tensor& grads_of(const variable_list& grads, const at::Tensor*) { return grads[0]; }
const Tensors& grads_of(const variable_list& grads, const Tensors*) { return grads; }

// Autograd wants defined inputs alone: `places` tells which of the op's inputs they are.
template <class Outputs>
struct Function : torch::autograd::Function<Function<Outputs>> {
  static constexpr bool is_traceable = true;
  using Op = DifferentiableTo<Outputs>;

  static Outputs forward(AutogradContext* ctx, at::TensorList defined, const std::vector<int64_t>& places, int64_t count,
                         const Op* op, Extras extras) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    Tensors inputs(count), saved;
    for (size_t i = 0; i < places.size(); ++i) inputs[places[i]] = defined[i];
    Outputs outputs = op->forward(inputs, extras, saved);
    ctx->set_materialize_grads(std::is_same_v<Outputs, at::Tensor>);
    ctx->save_for_backward(std::move(saved));
    ctx->saved_data["op"] = static_cast<int64_t>(reinterpret_cast<intptr_t>(op));
    ctx->saved_data["backend"] = registry::selected();
    ctx->saved_data["places"] = places;
    ctx->saved_data["count"] = count;
    for (size_t i = 0; i < extras.size(); ++i) ctx->saved_data[std::to_string(i)] = std::move(extras[i]);
    return outputs;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    auto& data = ctx->saved_data;
    const registry::Scope scope(static_cast<BackendId>(data["backend"].toInt()));
    const auto* op = reinterpret_cast<const Op*>(static_cast<intptr_t>(data["op"].toInt()));
    const auto places = data["places"].toIntVector();
    std::vector<bool> mask(data["count"].toInt());
    for (size_t i = 0; i < places.size(); ++i) mask[places[i]] = ctx->needs_input_grad(i);
    Extras extras;
    for (auto found = data.find("0"); found != data.end(); found = data.find(std::to_string(extras.size())))
      extras.push_back(found->second);
    const auto& given = grads_of(grads, static_cast<const Outputs*>(nullptr));
    const Tensors gradients = op->backward(given, ctx->get_saved_variables(), extras, mask);
    variable_list result(places.size() + 4);  // the arguments behind the inputs have no gradients
    for (size_t i = 0; i < places.size(); ++i)
      if (mask[places[i]]) result[i] = gradients[places[i]];
    return result;
  }
};

template <class Outputs>
Outputs apply_to(const DifferentiableTo<Outputs>& op, at::TensorList inputs, Extras extras) {
  Tensors defined;
  std::vector<int64_t> places;
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (!inputs[i].defined()) continue;
    defined.push_back(inputs[i]);
    places.push_back(static_cast<int64_t>(i));
  }
  return Function<Outputs>::apply(at::TensorList(defined), places, static_cast<int64_t>(inputs.size()), &op, std::move(extras));
}

}  // namespace

at::Tensor save_output(const at::Tensor& output, Extras& extras) {
  // Shares the version counter of the output, not its memory.
  at::Tensor handle = at::empty({0}, output.options());
  handle.unsafeGetTensorImpl()->set_version_counter(output.unsafeGetTensorImpl()->version_counter());
  extras.emplace_back(handle);
  extras.emplace_back(static_cast<int64_t>(output._version()));
  return at::alias(output);
}

bool was_edited(const Extras& extras) {
  const size_t count = extras.size();
  if (count < 2 || !extras[count - 2].isTensor()) return false;
  return extras[count - 2].toTensor()._version() != extras[count - 1].toInt();
}

at::Tensor apply(const Differentiable& op, at::TensorList inputs, Extras extras) { return apply_to(op, inputs, std::move(extras)); }
Tensors apply(const DifferentiableToSeveral& op, at::TensorList inputs, Extras extras) {
  return apply_to(op, inputs, std::move(extras));
}

}  // namespace pylayers
