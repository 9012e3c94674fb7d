// Random numbers: where seeds come from, and Philox in plain ATen.
#pragma once

#include <ATen/core/Generator.h>

#include <array>
#include <optional>

#include "common.h"

namespace pylayers {

using Generator = std::optional<at::Generator>;

// The finaliser of SplitMix64: every bit of the result depends on every bit of x.
uint64_t mix(uint64_t x);

// 64 bits of the state of a CUDA generator, a seed and an offset, which is on the host. It advances by 4, since it counts in fours.
uint64_t draw_bits(at::Generator cuda);

// A seed between 0 and 2⁶³ − 2 for a kernel on the device of `like`, of the generator given or else the device's own. Without
// dimensions it is a number that is known here, which takes no launch. Of shape (1,) it is on the device: where the call is
// recorded, in a graph of torch.compile or of CUDA, and is to draw anew each time that is run; and in a transform of torch.func.
Tensor draw_seed(const char* op, const Tensor& like, const Generator& generator);

// Philox4x32-10 in 64-bit integers that hold 32-bit words: four words of every counter, for a seed that broadcasts.
std::array<Tensor, 4> philox(const Tensor& counter, const Tensor& seed);

}  // namespace pylayers
