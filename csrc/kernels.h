// Declares every kernel of ops.def for the native backends. CPU kernels exist once per instruction set.
#pragma once

#include "view.h"

// A package with kernels of its own has its own ops.def, and is compiled with -DPYLAYERS_OPS=<ops.def>.
#ifndef PYLAYERS_OPS
#define PYLAYERS_OPS "ops.def"
#endif

struct CUstream_st;

namespace pylayers {

// Weak: a kernel that a backend does not have, or that was not built, is a null pointer in the kernel table.
#define KERNEL(name, ...) __attribute__((weak)) void name(__VA_ARGS__);
namespace cpu {
namespace baseline {
#include PYLAYERS_OPS
}
namespace avx2 {
#include PYLAYERS_OPS
}
namespace avx512 {
#include PYLAYERS_OPS
}
}  // namespace cpu
#undef KERNEL

#define KERNEL(name, ...) __attribute__((weak)) void name(Stream stream, __VA_ARGS__);
namespace cuda {
using Stream = CUstream_st*;
#include PYLAYERS_OPS
}  // namespace cuda
#undef KERNEL

}  // namespace pylayers
