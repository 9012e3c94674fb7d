// The entries of the kernel table, defined: to be included by one source of a library.
#pragma once

#include "registry.h"

namespace pylayers::kernels {

template <class Function>
Function pick(Function baseline, Function avx2, Function avx512) {
  const std::string best = registry::cpu_capability();
  if (best == "avx512" && avx512) return avx512;
  return best != "baseline" && avx2 ? avx2 : baseline;
}

#define KERNEL(name, ...) \
  Kernel<void(__VA_ARGS__)> name(#name, pick(cpu::baseline::name, cpu::avx2::name, cpu::avx512::name), cuda::name);
#include PYLAYERS_OPS
#undef KERNEL

}  // namespace pylayers::kernels
