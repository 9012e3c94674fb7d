#pragma once

#include <cstdint>

#include "../view.h"

namespace pylayers::cpu {

// body(context, begin, end) on torch's threads for ranges of at least `grain` out of [0, count).
PYLAYERS_API void run_parallel(int64_t count, int64_t grain, void (*body)(const void* context, int64_t begin, int64_t end),
                               const void* context);

template <class Body>
inline void parallel_for(int64_t count, int64_t grain, const Body& body) {
  if (count <= grain) return body(int64_t{0}, count);  // threads cost microseconds
  run_parallel(
      count, grain, [](const void* context, int64_t begin, int64_t end) { (*static_cast<const Body*>(context))(begin, end); },
      &body);
}

PYLAYERS_API int64_t threads();  // that parallel_for may take

inline constexpr int64_t kGrain = 32768;  // elements that are worth a thread

// Outputs of this size are not in the caches when their reader comes: they are better written past them.
PYLAYERS_API bool larger_than_caches(int64_t bytes);

}  // namespace pylayers::cpu
