#include "parallel.h"

#include <ATen/Parallel.h>
#include <unistd.h>

#include <algorithm>

namespace pylayers::cpu {

void run_parallel(int64_t count, int64_t grain, void (*body)(const void*, int64_t, int64_t), const void* context) {
  at::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) { body(context, begin, end); });
}

int64_t threads() { return at::get_num_threads(); }

bool larger_than_caches(int64_t bytes) {
  static const int64_t cache = std::max<int64_t>(sysconf(_SC_LEVEL3_CACHE_SIZE), 4 << 20);
  return bytes > cache / 2;
}

}  // namespace pylayers::cpu
