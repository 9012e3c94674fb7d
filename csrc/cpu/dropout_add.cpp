// y = residual + (x · scale where the mask keeps x, else 0), and its backward, which draws the mask again. Four elements share a
// counter. Every element is read and written once.
#include "philox.h"
#include "rows.h"

namespace pylayers::cpu::PYLAYERS_ISA {
namespace {

constexpr int kChains = 4;                    // vectors of counters at once
constexpr int kBatch = kChains * 4 * kLongs;  // their elements

// Lanes 0 of a and b, 2 of a and b, …; lanes 1, 3, ….
inline Longs even_lanes(Longs a, Longs b) {
#if PYLAYERS_VECTOR_BYTES == 64 && !defined(PYLAYERS_PORTABLE)
  return bit_cast<Longs>(_mm512_unpacklo_epi64(bit_cast<__m512i>(a), bit_cast<__m512i>(b)));
#elif PYLAYERS_VECTOR_BYTES == 32 && !defined(PYLAYERS_PORTABLE)
  return bit_cast<Longs>(_mm256_unpacklo_epi64(bit_cast<__m256i>(a), bit_cast<__m256i>(b)));
#else
  Longs result;
  for (int i = 0; i < kLongs; i += 2) result[i] = a[i], result[i + 1] = b[i];
  return result;
#endif
}
inline Longs odd_lanes(Longs a, Longs b) {
#if PYLAYERS_VECTOR_BYTES == 64 && !defined(PYLAYERS_PORTABLE)
  return bit_cast<Longs>(_mm512_unpackhi_epi64(bit_cast<__m512i>(a), bit_cast<__m512i>(b)));
#elif PYLAYERS_VECTOR_BYTES == 32 && !defined(PYLAYERS_PORTABLE)
  return bit_cast<Longs>(_mm256_unpackhi_epi64(bit_cast<__m256i>(a), bit_cast<__m256i>(b)));
#else
  Longs result;
  for (int i = 0; i < kLongs; i += 2) result[i] = a[i + 1], result[i + 1] = b[i + 1];
  return result;
#endif
}

// Which of kBatch elements are kept.
struct Drawn {
  Words words[2 * kChains];  // of the elements, in their order

  // v where its elements are kept, else 0.
  template <class acc_t>
  Vector<acc_t> kept(Vector<acc_t> v, int part, int32_t last_dropped) const {
    if constexpr (std::is_same_v<acc_t, double>) {
      Vector<uint32_t, kLongs> half;
      std::memcpy(&half, reinterpret_cast<const char*>(words) + part * sizeof(half), sizeof(half));
      return __builtin_convertvector(half >> 1, Vector<int64_t>) > int64_t{last_dropped} ? v : Vector<acc_t>{};
    } else {
      return bit_cast<Vector<int32_t>>(words[part] >> 1) > last_dropped ? v : Vector<acc_t>{};
    }
  }
};

struct Mask {
  uint64_t key;
  int32_t last_dropped;  // of the numbers below 2³¹; −1 where p is so small that all are kept
  Longs order;           // lanes 0, 2, … take the first counters, so that even lanes are the first half of the elements

  Mask(Input seed, int64_t key, double p)
      : key(static_cast<uint64_t>(seed ? *static_cast<const int64_t*>(seed.data) : key)),
        last_dropped(static_cast<int32_t>(int64_t{philox_threshold(p)} - 1)) {
    for (int i = 0; i < kLongs; ++i) order[i] = i / 2 + i % 2 * (kLongs / 2);
  }

  // Of the elements from `first` on, a multiple of 4.
  Drawn operator()(int64_t first) const {
    std::array<Longs, kChains> counter;
    for (int i = 0; i < kChains; ++i) counter[i] = static_cast<uint64_t>(first / 4 + i * kLongs) + order;
    const auto words = philox(counter, key);
    Drawn drawn;
#pragma GCC unroll 4
    for (int i = 0; i < kChains; ++i) {
      const auto& [a, b, c, d] = words[i];
      const Longs ab = (a & kLowWord) | b << 32, cd = (c & kLowWord) | d << 32;
      drawn.words[2 * i] = bit_cast<Words>(even_lanes(ab, cd));
      drawn.words[2 * i + 1] = bit_cast<Words>(odd_lanes(ab, cd));
    }
    return drawn;
  }
};

// body(part, col, count) for the vectors of a batch.
template <int lanes, class Body>
inline void for_parts(int64_t col, Whole, Body&& body) {
#pragma GCC unroll 8
  for (int part = 0; part < kBatch / lanes; ++part) body(part, col + part * lanes, Whole());
}
template <int lanes, class Body>
inline void for_parts(int64_t col, int64_t count, Body&& body) {
  for (int part = 0; part * lanes < count; ++part) body(part, col + part * lanes, std::min<int64_t>(count - part * lanes, lanes));
}

// y = residual + dropout(x), or dropout(x) without a residual.
template <class scalar_t, bool added>
void run(Output y, Input x, Input residual, const Mask& mask, double p) {
  using acc_t = accumulation_t<scalar_t>;
  const auto scale = static_cast<acc_t>(dropout_scale(p));
  const bool flat = is_flat(x) && (!added || is_flat(residual));
  const int64_t rows = flat ? 1 : x.rows(), dim = flat ? x.rows() * x.dim() : x.dim();
  const bool past_caches = can_stream<scalar_t>(y);
  for_tiles(rows, dim, [&](int64_t row, int64_t begin, int64_t end) {
    const scalar_t *from = row_of<scalar_t>(x, row) + begin, *other = added ? row_of<scalar_t>(residual, row) + begin : nullptr;
    scalar_t* to = row_of<scalar_t>(y, row) + begin;
    const int64_t first = row * dim + begin;
    if_streamed(past_caches, [&](auto streamed) {
      for_vectors<kBatch>(end - begin, [&](int64_t start, auto batch) {
        const Drawn drawn = mask(first + start);
        for_parts<kLanes<acc_t>>(start, batch, [&](int part, int64_t col, auto count) {
          const auto kept = drawn.kept<acc_t>(rounded(load(from + col, count) * scale), part, mask.last_dropped);
          if constexpr (added) {
            put(to + col, load(other + col, count) + kept, count, streamed);
          } else {
            put(to + col, kept, count, streamed);
          }
        });
      });
    });
  });
}

}  // namespace

void dropout_add_forward(Output y, Input x, Input residual, Input seed, int64_t key, double p) {
  dispatch(x.dtype, [&](auto type) { run<decltype(type), true>(y, x, residual, Mask(seed, key, p), p); });
}

void dropout_add_backward(Output dx, Input grad, Input seed, int64_t key, double p) {
  dispatch(grad.dtype, [&](auto type) { run<decltype(type), false>(dx, grad, {}, Mask(seed, key, p), p); });
}

}  // namespace pylayers::cpu::PYLAYERS_ISA
