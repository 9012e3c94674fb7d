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

// The sum over a whole tensor: shares of 8192 numbers, and eight blocks a multiprocessor at most.
constexpr int64_t cuda_sum_parts(int64_t count) { return std::max<int64_t>(1, std::min<int64_t>(count / 8192, 8 * 132)); }

// A mean over up to so many numbers of a row, or of a column, is taken by one block, which holds them.
constexpr int64_t kHeldRow = 16384, kHeldColumn = 1024;

// Into how many shares the sum of a mean over `count` numbers is split where there are `means` of them, side by side in `dim`
// columns each; 0: not at all. Enough blocks to fill a GPU, of 64 rows and 512 columns or of 8192 numbers each at least.
constexpr int64_t cuda_mean_parts(int64_t means, int64_t count, int64_t dim, bool along_rows) {
  if (count <= (along_rows ? kHeldRow : kHeldColumn)) return 0;
  const int64_t beside = along_rows ? means : means * ((dim + 511) / 512);
  const int64_t wanted = (8 * 132 + beside - 1) / beside;
  return std::max<int64_t>(1, std::min(count / (along_rows ? 8192 : 64), wanted));
}

// Whether a group of so many numbers is held by those who normalise it.
constexpr bool cuda_holds_group(int64_t count, int64_t bytes) { return count * std::max<int64_t>(bytes, 4) <= 4 * kHeldRow; }

// Into how many shares the positions are split for sums of each channel: enough blocks to fill a GPU, of 32 positions and 512 channels
// or, where the positions follow each other, of 8192 numbers each at least.
constexpr int64_t cuda_channel_parts(int64_t batch, int64_t channels, int64_t positions, bool last) {
  const int64_t beside = last ? batch * ((channels + 511) / 512) : batch * channels;
  const int64_t wanted = (8 * 132 + beside - 1) / beside;
  return std::max<int64_t>(1, std::min(positions / (last ? 32 : 8192), wanted));
}

}  // namespace pylayers
