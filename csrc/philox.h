// Philox4x32-10, the counter-based generator of Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, 2011: its constants.
#pragma once

#include <cstdint>

namespace pylayers {

inline constexpr int kPhiloxRounds = 10;
inline constexpr uint32_t kPhiloxMultiplier0 = 0xD2511F53, kPhiloxMultiplier1 = 0xCD9E8D57;
inline constexpr uint32_t kPhiloxStep0 = 0x9E3779B9, kPhiloxStep1 = 0xBB67AE85;  // of the key, from round to round

// Of 2³¹ equally likely numbers, those below this make an event of probability p.
inline uint32_t philox_threshold(double p) { return static_cast<uint32_t>(p * 0x1p31 + 0.5); }

// What is kept by dropout of probability p is multiplied by this: all that p leaves is 0 if p is 1.
inline double dropout_scale(double p) { return p == 1 ? 0 : 1 / (1 - p); }

}  // namespace pylayers
