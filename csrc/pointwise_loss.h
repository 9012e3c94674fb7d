// The losses of single numbers.
#pragma once

#include <cstdint>
#include <type_traits>

namespace pylayers {

// The numbers are part of the kernel contract: they reach kernels, Python ones too, as a plain integer.
enum class PointwiseLoss : int64_t { squares, logits, probabilities, log_probabilities };

// Whether the slope by the input depends on it.
template <PointwiseLoss kind>
inline constexpr bool needs_input = kind == PointwiseLoss::squares || kind == PointwiseLoss::logits;

// body(std::integral_constant<PointwiseLoss, …>())
template <class Body>
void with_loss(int64_t kind, const Body& body) {
  switch (static_cast<PointwiseLoss>(kind)) {
    case PointwiseLoss::squares: return body(std::integral_constant<PointwiseLoss, PointwiseLoss::squares>());
    case PointwiseLoss::logits: return body(std::integral_constant<PointwiseLoss, PointwiseLoss::logits>());
    case PointwiseLoss::probabilities: return body(std::integral_constant<PointwiseLoss, PointwiseLoss::probabilities>());
    case PointwiseLoss::log_probabilities: return body(std::integral_constant<PointwiseLoss, PointwiseLoss::log_probabilities>());
  }
}

}  // namespace pylayers
