// Trains a net of two layers through the ops, in C++ alone: train [--steps 100]
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <ops/ops.h>

#include <cmath>
#include <iostream>

#include "arguments.h"

namespace {

constexpr int64_t kRows = 512, kFeatures = 16, kHidden = 64, kClasses = 4;
constexpr double kRate = 0.5;

struct Net {
  at::Tensor weight1, bias1, norm, weight2;

  explicit Net(const at::Generator& generator)
      : weight1(at::randn({kHidden, kFeatures}, generator) / std::sqrt(kFeatures)),
        bias1(at::zeros({kHidden})),
        norm(at::ones({kHidden})),
        weight2(at::randn({kClasses, kHidden}, generator) / std::sqrt(kHidden)) {
    for (auto* one : parameters()) one->requires_grad_();
  }

  std::vector<at::Tensor*> parameters() { return {&weight1, &bias1, &norm, &weight2}; }

  at::Tensor operator()(const at::Tensor& x) const {
    const auto hidden = pylayers::linear(x, weight1, bias1, "gelu");
    const c10::SymInt shape[] = {kHidden};
    return pylayers::linear(pylayers::rms_norm(hidden, shape, norm), weight2);
  }
};

void step(Net& net) {
  const at::NoGradGuard guard;
  for (auto* one : net.parameters()) {
    one->sub_(one->grad(), kRate);
    one->mutable_grad().reset();
  }
}

void train(std::vector<std::string> arguments) {
  const int steps = number(arguments, "--steps", 100, 1'000'000);
  if (!arguments.empty()) throw std::invalid_argument("takes --steps alone, got \"" + arguments[0] + "\"");
  const auto generator = at::detail::createCPUGenerator(0);
  // The class of a point is the largest of as many random projections.
  const auto x = at::randn({kRows, kFeatures}, generator);
  const auto target = x.matmul(at::randn({kFeatures, kClasses}, generator)).argmax(1);
  Net net(generator);
  for (int i = 1; i <= steps; ++i) {
    const auto loss = pylayers::cross_entropy(net(x), target);
    loss.backward();
    step(net);
    if (i == 1 || i == steps || i % 10 == 0) std::cout << "step " << i << "  loss " << loss.item<float>() << '\n';
  }
}

}  // namespace

int main(int count, char** given) { return run("train", count, given, train); }
