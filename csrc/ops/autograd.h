// The autograd node of every op, in one place: an op says what its forward saves and what its backward does with that.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>

#include <vector>

#include "../view.h"

namespace pylayers {

using Tensors = std::vector<at::Tensor>;
using Extras = std::vector<c10::IValue>;  // scalars, and tensors that autograd shall not look after

template <class Outputs>
struct DifferentiableTo {
  const char* name;  // of the node, shown in grad_fn and by profilers
  // Runs below autograd: returns the output and fills `saved`; may add to `extras`. Inputs may be undefined.
  Outputs (*forward)(at::TensorList inputs, Extras& extras, Tensors& saved);
  // Gradients of the inputs. Where mask is false nobody asks, and what is returned there is dropped.
  // Of several outputs, those that nobody used have an undefined gradient.
  Tensors (*backward)(const Outputs& grads, const Tensors& saved, const Extras& extras, const std::vector<bool>& mask);
};
using Differentiable = DifferentiableTo<at::Tensor>;
using DifferentiableToSeveral = DifferentiableTo<Tensors>;

// An alias of an output, to be saved for free: its version nobody bumps. An edit of the output is legal, and was_edited tells
// of it later by what this adds to `extras`; the backward then computes the output again.
at::Tensor save_output(const at::Tensor& output, Extras& extras);
bool was_edited(const Extras& extras);  // false where no output was saved

// The output, with a node that runs op.backward on the backend that the forward ran on.
PYLAYERS_API at::Tensor apply(const Differentiable& op, at::TensorList inputs, Extras extras = {});
PYLAYERS_API Tensors apply(const DifferentiableToSeveral& op, at::TensorList inputs, Extras extras = {});

}  // namespace pylayers
