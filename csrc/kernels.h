// Declares every kernel of ops.def for the native backends. CPU kernels exist once per instruction set.
#pragma once

#include "view.h"

struct CUstream_st;

namespace pylayers {

// Weak: a kernel that a backend does not have, or that was not built, is a null pointer in the kernel table.
#define KERNEL(name, ...) __attribute__((weak)) void name(__VA_ARGS__);
namespace cpu {
namespace baseline {
#include "ops.def"
}
namespace avx2 {
#include "ops.def"
}
namespace avx512 {
#include "ops.def"
}
}  // namespace cpu
#undef KERNEL

#define KERNEL(name, ...) __attribute__((weak)) void name(Stream stream, __VA_ARGS__);
namespace cuda {
using Stream = CUstream_st*;
#include "ops.def"
}  // namespace cuda
#undef KERNEL

}  // namespace pylayers
