#pragma once

#include <cstdint>

namespace pylayers::cuda {

struct Share {
  int64_t first, last;
};

// Part number `part` of the rows, split evenly and contiguously.
__device__ inline Share share_of(int64_t rows, int64_t parts, int64_t part) {
  const int64_t each = rows / parts, left = rows % parts;
  const int64_t first = each * part + min(part, left);
  return {first, first + each + (part < left)};
}

}  // namespace pylayers::cuda
