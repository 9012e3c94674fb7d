// How many partial sums a sum over rows is split into on a GPU: the size of the workspace `partial`.
#pragma once

#include <algorithm>
#include <cstdint>

namespace pylayers {

// Constants, not the number of multiprocessors in the machine, so that the bits do not depend on the GPU's model.
// 132 blocks fill the largest common GPUs once. Narrow rows get more parts, since a part then moves less at a time;
// 32 rows a part keep the partial sums under 5 % of the traffic, but no multiprocessor should idle for that.
constexpr int64_t cuda_parts(int64_t rows, int64_t dim) {
  const int64_t most = dim <= 256 ? 4 * 132 : dim <= 8192 ? 2 * 132 : 132;
  const int64_t wanted = std::max(rows / 32, std::min<int64_t>(rows, 132));
  return std::max<int64_t>(1, std::min(most, wanted));
}

}  // namespace pylayers
