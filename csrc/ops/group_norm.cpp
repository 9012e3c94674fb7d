// Kernels see [batch, channels, positions], or [batch, positions, channels] where the channels are last in memory: then nothing is
// moved around. Where there is one position both are the same, and the second one is taken.
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include "../cuda/parts.h"
#include "autograd.h"
#include "common.h"
#include "epilogue.h"
#include "norm.h"
#include "op.h"
#include "ops.h"

namespace pylayers {
namespace {

constexpr auto kOp = "group_norm";

using Three = std::tuple<Tensor, Tensor, Tensor>;

void check_vector(const char* name, const Tensor& parameter, const Tensor& input) {
  if (!parameter.defined()) return;
  TORCH_CHECK_VALUE(parameter.dim() == 1 && parameter.sym_size(0) == input.sym_size(1), kOp, ": ", name, " must have shape [",
                    input.sym_size(1), "] (the channels of input), got ", parameter.sym_sizes());
  check_matches(kOp, name, parameter, "input", input);
}

void check(const Tensor& input, int64_t num_groups, const Tensor& weight, const Tensor& bias) {
  check_floating(kOp, "input", input);
  TORCH_CHECK_VALUE(input.dim() >= 2, kOp, ": input must have at least the two dimensions batch and channels, got shape ",
                    input.sym_sizes());
  TORCH_CHECK_VALUE(num_groups > 0 && input.sym_size(1) % num_groups == 0, kOp,
                    ": num_groups must be positive and divide the channels of input (", input.sym_size(1), "), got ", num_groups);
  check_vector("weight", weight, input);
  check_vector("bias", bias, input);
  TORCH_CHECK_VALUE(input.sym_numel() != num_groups || input.sym_size(0) != 1, kOp,
                    ": a group of a single input must have more than one value, got shape ", input.sym_sizes(), " and ", num_groups,
                    " groups");
}

Activation parse(std::optional<std::string_view> activation) {
  if (!activation) return Activation::none;
  TORCH_CHECK_VALUE(*activation == "silu", kOp, ": activation must be None or 'silu', got '", std::string(*activation), "'");
  return Activation::silu;
}

// ---- memory

bool channels_last(const Tensor& tensor) {
  return (tensor.dim() == 4 || tensor.dim() == 5) && tensor.suggest_memory_format() != at::MemoryFormat::Contiguous &&
         !tensor.is_contiguous();
}

// Uninitialised, in the memory format of like.
Tensor allocate_as(const Tensor& like) {
  if (!channels_last(like)) return allocate_like(like);
  auto sizes = like.sym_sizes().vec();
  sizes.push_back(sizes[1]);
  sizes.erase(sizes.begin() + 1);
  return allocate(like, sizes, like.scalar_type()).movedim(-1, 1);
}

// An input and what has its shape, as the kernels see them.
struct Shape {
  int64_t batch, channels, positions, groups;
  bool moved, last;  // whether the channels are to be moved to the end, and whether they are there

  Shape(const Tensor& input, int64_t groups)
      : batch(input.size(0)), channels(input.size(1)), positions(c10::multiply_integers(input.sizes().slice(2))), groups(groups),
        moved(channels_last(input)), last(moved || positions == 1) {}
  int64_t group_size() const { return channels / groups * positions; }
  std::array<int64_t, 3> sizes() const {
    return last ? std::array{batch, positions, channels} : std::array{batch, channels, positions};
  }
  Rows rows(const Tensor& tensor) const { return as_rows(moved ? tensor.movedim(1, -1) : tensor, channels * positions); }
  Argument input(const Rows& rows) const {
    return Argument::input(rows.tensor, sizes(), {rows.stride, sizes()[2], 1});
  }
  Argument output(const Tensor& tensor) const { return Argument::output(tensor, sizes()); }
  Argument statistic(const Tensor& tensor) const { return Argument::output(tensor, {batch * groups}); }

  int64_t parts(const Tensor& like) const {
    if (splits_for_gpu(like)) return cuda_channel_parts(batch, channels, positions, last);
    return last ? std::clamp<int64_t>(positions / 256, 1, 1024) : 1;
  }
  // Whether the forward needs sums of each channel.
  bool split(const Tensor& like) const {
    if (splits_for_gpu(like)) return (last && positions > 1) || !cuda_holds_group(group_size(), like.element_size());
    return last && positions > 1;
  }
  Tensor partial(const Tensor& like) const {
    return at::empty({2 * batch * parts(like), channels}, like.options().dtype(accumulation_dtype(like.scalar_type())));
  }
};

// ---- formulas

Tensor by_channel(const OptionalTensor& parameter, const Tensor& like) {
  std::vector<c10::SymInt> sizes(like.dim() - 1, 1);
  sizes[0] = like.sym_size(1);
  return value(parameter).to(like.scalar_type()).reshape_symint(sizes);
}

Tensor grouped(const Tensor& input, int64_t groups) {
  auto size = input.sym_size(1) / groups;
  for (int64_t axis = 2; axis < input.dim(); ++axis) size = size * input.sym_size(axis);
  return input.reshape_symint({input.sym_size(0), groups, size});
}

Normalisation norm(double eps) { return {1, eps, 0, true}; }

Tensor normal(const Tensor& input, int64_t groups, double eps) {
  const auto dtype = accumulation_dtype(input.scalar_type());
  return normalised(norm(eps), grouped(input, groups), {}, {}, dtype).reshape_symint(input.sym_sizes());
}

Tensor affine(const Tensor& n, const OptionalTensor& weight, const OptionalTensor& bias) {
  const Tensor z = value(weight).defined() ? n * by_channel(weight, n) : n;
  return value(bias).defined() ? z + by_channel(bias, n) : z;
}

Tensor formula(const Tensor& input, int64_t groups, const OptionalTensor& weight, const OptionalTensor& bias, double eps,
               int64_t activation) {
  const Tensor z = affine(normal(input, groups, eps), weight, bias);
  return (activation ? activate(z, static_cast<Activation>(activation)) : z).to(input.scalar_type());
}

Three backward_formula(const Tensor& grad, const Tensor& input, const OptionalTensor& weight, const OptionalTensor& bias,
                       const Tensor&, const Tensor&, int64_t groups, double eps, int64_t activation, std::array<bool, 3> mask) {
  const Tensor n = normal(input, groups, eps);
  Tensor dz = grad.to(n.scalar_type());
  if (activation) {
    const Tensor z = affine(n, weight, bias), s = z.sigmoid();
    dz = dz * s * (1 + z * (1 - s));
  }
  Three gradients{nothing(input), nothing(input), nothing(input)};
  if (mask[0]) {
    const Tensor dn = value(weight).defined() ? dz * by_channel(weight, n) : dz;
    const Tensor dx = normalised_backward(norm(eps), grouped(dn, groups), grouped(input, groups), {}, {true, false, false})[0];
    std::get<0>(gradients) = dx.reshape_symint(input.sym_sizes()).to(input.scalar_type());
  }
  const auto sum = [&](const Tensor& x) {
    std::vector<int64_t> axes{0};
    for (int64_t axis = 2; axis < x.dim(); ++axis) axes.push_back(axis);
    return x.sum(axes).to(input.scalar_type());
  };
  if (mask[1]) std::get<1>(gradients) = sum(dz * n);
  if (mask[2]) std::get<2>(gradients) = sum(dz);
  return gradients;
}

// ---- kernels

// Outputs y, mean and rstd.
Three allocate_forward(const Tensor& input, const OptionalTensor&, const OptionalTensor&, int64_t groups, double, int64_t) {
  const auto statistic = [&] { return allocate(input, {input.sym_size(0), groups}, accumulation_dtype(input.scalar_type())); };
  return {allocate_as(input), statistic(), statistic()};
}

Three forward(const Tensor& input, const OptionalTensor& weight, const OptionalTensor& bias, int64_t groups, double eps,
              int64_t activation) {
  auto outputs = allocate_forward(input, weight, bias, groups, eps, activation);
  auto& [y, mean, rstd] = outputs;
  const Shape shape(input, groups);
  const Rows x = shape.rows(input);
  if (x.empty()) return outputs;
  const Tensor w = contiguous(weight), b = contiguous(bias);
  const Tensor partial = shape.split(input) ? shape.partial(input) : Tensor();
  kernels::group_norm_forward(registry::target(kOp, input), shape.output(y), shape.statistic(mean), shape.statistic(rstd),
                              partial.defined() ? Argument::output(partial, partial.sizes()) : Argument(), shape.input(x), vector(w),
                              vector(b), groups, int64_t{shape.last}, eps, activation);
  return outputs;
}

Three allocate_backward(const Tensor&, const Tensor& input, const OptionalTensor&, const OptionalTensor&, const Tensor&,
                        const Tensor&, int64_t, double, int64_t, std::array<bool, 3> mask) {
  const auto sum = [&](bool wanted) {
    return wanted ? allocate(input, {input.sym_size(1)}, input.scalar_type()) : nothing(input);
  };
  return {mask[0] ? allocate_as(input) : nothing(input), sum(mask[1]), sum(mask[2])};
}

Three backward(const Tensor& grad, const Tensor& input, const OptionalTensor& weight, const OptionalTensor& bias, const Tensor& mean,
               const Tensor& rstd, int64_t groups, double eps, int64_t activation, std::array<bool, 3> mask) {
  auto outputs = allocate_backward(grad, input, weight, bias, mean, rstd, groups, eps, activation, mask);
  auto& [dx, dweight, dbias] = outputs;
  const Shape shape(input, groups);
  const Rows x = shape.rows(input), g = shape.rows(grad);
  if (x.empty()) {
    if (mask[1]) dweight.zero_();
    if (mask[2]) dbias.zero_();
    return outputs;
  }
  const Tensor w = contiguous(weight), b = contiguous(bias), partial = shape.partial(input);
  const Tensor means = mask[0] ? at::empty({2, shape.batch * groups}, partial.options()) : Tensor();
  const auto sum = [&](bool wanted, const Tensor& one) { return wanted ? Argument::output(one, {shape.channels}) : Argument(); };
  kernels::group_norm_backward(registry::target(kOp, input), mask[0] ? shape.output(dx) : Argument(), sum(mask[1], dweight),
                               sum(mask[2], dbias), Argument::output(partial, partial.sizes()),
                               mask[0] ? Argument::output(means, means.sizes()) : Argument(), shape.input(g), shape.input(x), vector(w), vector(b),
                               vector(mean), vector(rstd), groups, int64_t{shape.last}, activation);
  return outputs;
}

Op<decltype(group_norm)> op;
Op<decltype(forward)> forward_op;
Op<decltype(backward)> backward_op;

const Differentiable kDifferentiable = {
    "pylayers::GroupNormBackward",
    [](at::TensorList inputs, Extras& extras, Tensors& saved) {
      const int64_t activation = extras[2].toInt();
      auto [y, mean, rstd] =
          forward_op(inputs[0], inputs[1], inputs[2], extras[0].toInt(), extras[1].toDouble(), activation);
      saved = {inputs[0], inputs[1], activation ? inputs[2] : Tensor(), mean, rstd};
      return y;
    },
    [](const Tensor& grad, const Tensors& saved, const Extras& extras, const std::vector<bool>& mask) -> Tensors {
      auto [dx, dweight, dbias] = backward_op(grad, saved[0], saved[1], saved[2], saved[3], saved[4], extras[0].toInt(),
                                              extras[1].toDouble(), extras[2].toInt(), {mask[0], mask[1], mask[2]});
      return {dx, dweight, dbias};
    }};

Tensor run(const Tensor& input, int64_t num_groups, const OptionalTensor& weight, const OptionalTensor& bias, double eps,
           std::optional<std::string_view> activation) {
  const auto kind = static_cast<int64_t>(parse(activation));
  const Tensor &w = value(weight), &b = value(bias);
  check(input, num_groups, w, b);
  if (needs_formula(kOp, {&input, &w, &b})) return formula(input, num_groups, weight, bias, eps, kind);
  if (needs_gradient({&input, &w, &b})) return apply(kDifferentiable, {input, w, b}, {num_groups, eps, kind});
  const at::AutoDispatchBelowADInplaceOrView guard;
  return std::get<0>(forward_op(input, weight, bias, num_groups, eps, kind));
}

// As torch does under autocast: float32 on a GPU; on a CPU the dtype of the input decides.
Tensor autocast(const Tensor& input, int64_t num_groups, const OptionalTensor& weight, const OptionalTensor& bias, double eps,
                std::optional<std::string_view> activation) {
  const c10::impl::ExcludeDispatchKeyGuard guard(c10::autocast_dispatch_keyset);
  const auto dtype = input.is_cuda() ? accumulation_dtype(input.scalar_type()) : input.scalar_type();
  return group_norm(autocast_to(dtype, input, input), num_groups, autocast_to(dtype, weight, input), autocast_to(dtype, bias, input),
                    eps, activation);
}

}  // namespace

Tensor group_norm(const Tensor& input, int64_t num_groups, const OptionalTensor& weight, const OptionalTensor& bias, double eps,
                  std::optional<std::string_view> activation) {
  return op(input, num_groups, weight, bias, eps, activation);
}

TORCH_LIBRARY_FRAGMENT(pylayers, m) {
  op.define_public(m, "group_norm(Tensor input, int num_groups, Tensor? weight=None, Tensor? bias=None, float eps=1e-05, "
                      "str? activation=None) -> Tensor", run, autocast);
  forward_op.define_kernel(m, "group_norm_forward(Tensor input, Tensor? weight, Tensor? bias, int groups, float eps, int activation) "
                              "-> (Tensor, Tensor, Tensor)", forward, allocate_forward);
  backward_op.define_backward(m, kOp, "group_norm_backward(Tensor grad, Tensor input, Tensor? weight, Tensor? bias, Tensor mean, "
                                      "Tensor rstd, int groups, float eps, int activation, bool[3] mask) "
                                      "-> (Tensor, Tensor, Tensor)",
                              backward, allocate_backward, backward_formula);
}

}  // namespace pylayers
