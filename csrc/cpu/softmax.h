// What every softmax is made of.
#pragma once

#include <cmath>
#include <limits>

#include "math.h"
#include "rows.h"

namespace pylayers::cpu::PYLAYERS_ISA {

template <class acc_t>
inline constexpr acc_t kInfinity = std::numeric_limits<acc_t>::infinity();

// eˣ, and 0 where that is all but 0: what is masked must not count.
template <class V>
inline V exp_or_zero(V x) {
  constexpr element_t<V> least = sizeof(element_t<V>) == 8 ? -708. : -87.3;
  return x < least ? V{} : exp(x);
}

template <class V>
inline V larger(V a, V b) {
  return a < b ? b : a;
}

}  // namespace pylayers::cpu::PYLAYERS_ISA
