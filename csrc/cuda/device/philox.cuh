#pragma once

#include "../../philox.h"

namespace pylayers::cuda {

// The four random words of a counter.
__device__ inline uint4 philox(uint64_t counter, uint64_t seed) {
  uint4 words = {uint32_t(counter), uint32_t(counter >> 32), 0, 0};
  uint32_t key = uint32_t(seed), other_key = uint32_t(seed >> 32);
#pragma unroll
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const uint64_t p = uint64_t(kPhiloxMultiplier0) * words.x, q = uint64_t(kPhiloxMultiplier1) * words.z;
    words = {uint32_t(q >> 32) ^ words.y ^ key, uint32_t(q), uint32_t(p >> 32) ^ words.w ^ other_key, uint32_t(p)};
    key += kPhiloxStep0;
    other_key += kPhiloxStep1;
  }
  return words;
}

}  // namespace pylayers::cuda
