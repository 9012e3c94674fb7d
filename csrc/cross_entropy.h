// Which cross entropy a call asks for, and what becomes of its rows.
#pragma once

#include <type_traits>

namespace pylayers {

// Targets are classes, or with label smoothing a class and a little of all, or have a probability for each class.
enum class Labels { classes, smoothed, probabilities };
// The target of a row is a class or the row has probabilities, or the row does not count, or its target is no class.
enum class RowKind { counted, ignored, wrong };

// body(std::integral_constant<Labels, …>(), std::bool_constant<capped>())
template <class Body>
void with_labels(bool probabilities, double smoothing, double softcap, const Body& body) {
  const auto with_cap = [&](auto labels) { softcap != 0 ? body(labels, std::true_type()) : body(labels, std::false_type()); };
  if (probabilities) return with_cap(std::integral_constant<Labels, Labels::probabilities>());
  if (smoothing != 0) return with_cap(std::integral_constant<Labels, Labels::smoothed>());
  with_cap(std::integral_constant<Labels, Labels::classes>());
}

}  // namespace pylayers
