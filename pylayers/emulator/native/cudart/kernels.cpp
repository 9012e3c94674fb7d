// The launchers of ops.def by name: what the kernel table is given for CPU tensors.
#include "kernels.h"

namespace {

struct Entry {
  const char* name;
  void* launcher;  // null for a kernel that the backend does not have
};

}  // namespace

extern "C" __attribute__((visibility("default"))) const Entry emulator_launchers[] = {
#define KERNEL(name, ...) {#name, reinterpret_cast<void*>(&pylayers::cuda::name)},
#include PYLAYERS_OPS
#undef KERNEL
    {nullptr, nullptr}};
