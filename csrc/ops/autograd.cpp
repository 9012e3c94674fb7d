#include "autograd.h"

#include <ATen/ops/alias.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/dynamo/compiled_autograd.h>

#include <algorithm>
#include <mutex>
#include <string>

#include "../registry.h"

namespace pylayers {
namespace {

namespace autograd = torch::autograd;
using autograd::Node;
using autograd::SavedVariable;
namespace compiled = torch::dynamo::autograd;
using NodePointer = decltype(std::declval<Node&>().getptr());  // std::shared_ptr in torch 2.11, c10::intrusive_ptr in 2.13

const at::Tensor& outputs_of(const Tensors& grads, const at::Tensor*) { return grads[0]; }
const Tensors& outputs_of(const Tensors& grads, const Tensors*) { return grads; }
at::TensorList list_of(const at::Tensor& output) { return output; }
at::TensorList list_of(const Tensors& outputs) { return outputs; }

bool any_defined(at::TensorList tensors) {
  return std::any_of(tensors.begin(), tensors.end(), [](const at::Tensor& tensor) { return tensor.defined(); });
}

// One call of an op in the graph of autograd. Edges lead to its inputs in their order, also to those that are undefined.
// torch::autograd::Function does the same with a map of names, for several microseconds a call.
template <class Outputs>
struct OpNode : Node {
  using Op = DifferentiableTo<Outputs>;

  OpNode(const Op& op, at::TensorList inputs, Extras extras) : op_(&op), backend_(registry::selected()), extras_(std::move(extras)) {
    set_next_edges(autograd::collect_next_edges(inputs));
  }

  std::string name() const override { return op_->name; }

  Extras& extras() { return extras_; }

  // After the outputs know of this node: one that is saved must not own it.
  void save(const Tensors& tensors) {
    saved_.reserve(tensors.size());
    for (const auto& tensor : tensors)
      saved_.emplace_back(tensor, tensor.defined() && autograd::impl::grad_fn_unsafe(tensor) == this);
  }

  Tensors apply(Tensors&& grads) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    TORCH_CHECK(!released_, autograd::ERR_BACKWARD_TWICE);
    return run(*op_, backend_, grads, unpacked(), extras_, asked_for());
  }

  void release_variables() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    saved_.clear();
    extras_.clear();
    released_ = true;
  }

  void compiled_args(autograd::CompiledNodeArgs& args) const override {
    args.collect(static_cast<uint64_t>(address()));
    args.collect(static_cast<uint64_t>(backend_));
    for (const auto& extra : extras_) args.collect(extra);
    args.collect(saved_, true);  // always unpacked as outputs, as torch has it for its own nodes
    args.collect(released_);
  }

  // Compiled autograd puts a call of this node into its graph.
  Tensors apply_with_saved(const Tensors& grads, autograd::SwapSavedVariables& swapped) override {
    swapped.before(extras_);
    swapped.before(saved_);
    autograd::PackedArgs packed;
    packed.pack(address());
    packed.pack(static_cast<int64_t>(backend_));
    packed.pack(asked_for());
    packed.pack(unpacked());
    for (const auto& extra : extras_) packed.pack(extra);
    const auto& arguments = packed.vec();
    std::vector<at::TypePtr> schema;
    for (const auto& argument : arguments) schema.push_back(argument.isTensor() ? at::TensorType::get() : argument.type());

    const auto& compiler = compiled::getPyCompilerInterface();
    const auto bound = compiler->bind_function(swapped.get_py_compiler(), name(), run_packed, schema,
                                              /*is_custom_function=*/true, /*is_traceable=*/true);
    using Metadata = std::vector<std::optional<autograd::InputMetadata>>;
    Tensors result = compiler->call_function(swapped.get_py_compiler(), "apply_functional", bound, grads, arguments,
                                             compiled::IValuePacker<Metadata>::pack(compiled::get_input_metadata(next_edges())));
    swapped.after(extras_);
    swapped.after(saved_);
    return result;
  }

 private:
  int64_t address() const { return static_cast<int64_t>(reinterpret_cast<intptr_t>(op_)); }

  std::vector<bool> asked_for() const {
    std::vector<bool> mask(num_outputs());
    for (size_t i = 0; i < mask.size(); ++i) mask[i] = task_should_compute_output(i);
    return mask;
  }

  Tensors unpacked() {
    Tensors tensors;
    tensors.reserve(saved_.size());
    const NodePointer self = getptr();
    for (const auto& variable : saved_) tensors.push_back(variable.unpack(self));
    return tensors;
  }

  static Tensors run(const Op& op, BackendId backend, const Tensors& grads, const Tensors& saved, const Extras& extras,
                     const std::vector<bool>& mask) {
    if (!any_defined(grads)) return Tensors(mask.size());
    const registry::Scope scope(backend);
    Tensors gradients = op.backward(outputs_of(grads, static_cast<const Outputs*>(nullptr)), saved, extras, mask);
    gradients.resize(mask.size());
    for (size_t i = 0; i < mask.size(); ++i)
      if (!mask[i]) gradients[i].reset();
    return gradients;
  }

  static Tensors run_packed(const Tensors& grads, const std::vector<c10::IValue>& arguments) {
    autograd::PackedArgs packed(arguments);
    const auto* op = reinterpret_cast<const Op*>(static_cast<intptr_t>(packed.unpack<int64_t>()));
    const auto backend = static_cast<BackendId>(packed.unpack<int64_t>());
    const auto mask = packed.unpack<std::vector<bool>>();
    const auto saved = packed.unpack<Tensors>();
    return run(*op, backend, grads, saved, {arguments.begin() + 4, arguments.end()}, mask);
  }

  const Op* op_;
  BackendId backend_;
  Extras extras_;
  std::vector<SavedVariable> saved_;
  bool released_ = false;
};

// Where a node has a shared_ptr, it is deleted by a function that does not overflow the stack on deep graphs.
template <class Pointer, class Owned>
Pointer own(Owned* node) {
  if constexpr (std::is_same_v<Pointer, std::shared_ptr<Node>>)
    return Pointer(node, [](auto* last) { deleteNode(last); });
  else
    return Pointer::unsafe_steal_from_new(node);
}

// Hooks of torch.autograd.graph.node_creation_hook, where torch has them.
template <class Pointer>
auto announce(const Pointer& node, int) -> decltype(fire_node_creation_hooks(node)) {
  fire_node_creation_hooks(node);
}
template <class Pointer>
void announce(const Pointer&, long) {}

template <class Outputs>
Outputs apply_to(const DifferentiableTo<Outputs>& op, at::TensorList inputs, Extras extras) {
  auto* node = new OpNode<Outputs>(op, inputs, std::move(extras));
  const auto owner = own<NodePointer>(node);
  Tensors saved;
  Outputs outputs = [&] {
    const at::AutoDispatchBelowADInplaceOrView guard;
    const at::AutoGradMode no_grad(false);
    return op.forward(inputs, node->extras(), saved);
  }();
  for (const auto& output : list_of(outputs)) autograd::set_history(output, owner);
  node->save(saved);
  announce(owner, 0);
  return outputs;
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
