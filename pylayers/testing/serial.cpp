// The CPU kernels of the source PYLAYERS_OP, a table of them, and what they need of the rest of pylayers.
#include PYLAYERS_OP

#include "kernels.h"

namespace pylayers::cpu {

// One thread takes all pieces, the last one first: what depends on their order, or on there being one, shows.
void run_parallel(int64_t count, int64_t grain, void (*body)(const void*, int64_t, int64_t), const void* context) {
  for (int64_t begin = (count - 1) / grain * grain; begin >= 0; begin -= grain)
    body(context, begin, begin + grain < count ? begin + grain : count);
}

int64_t threads() { return 2; }

bool larger_than_caches(int64_t bytes) { return bytes > 4 << 20; }

}  // namespace pylayers::cpu

namespace {

struct Entry {
  const char* name;
  void* kernel;  // null for the kernels of other ops
};

}  // namespace

extern "C" __attribute__((visibility("default"))) const Entry kernels[] = {
#define KERNEL(name, ...) {#name, reinterpret_cast<void*>(&pylayers::cpu::PYLAYERS_ISA::name)},
#include "ops.def"
#undef KERNEL
    {nullptr, nullptr}};
