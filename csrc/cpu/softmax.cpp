// y = eˣ / Σ eˣ or x − ln Σ eˣ along rows, and of scaled and masked scores; and the backwards, from y.
//
// Threads share the rows. A row is read from memory once: first for its maximum, then for the exponentials, which a buffer keeps,
// and their sum; both passes after the first find it in the caches. Rows longer than the buffer are taken piece by piece with a
// running maximum, and read again for the output.
#include <memory>

#include "softmax.h"

namespace pylayers::cpu::PYLAYERS_ISA {
namespace {

template <class acc_t>
struct Buffer {  // for the exponentials of one row, if it fits
  std::unique_ptr<acc_t[]> memory;
  explicit Buffer(int64_t dim) : memory(dim <= kPiece ? new acc_t[dim] : nullptr) {}
  acc_t* held() const { return memory.get(); }
};

template <class acc_t, class scalar_t, class Score, class Streamed>
inline void softmax_row(scalar_t* to, int64_t live, int64_t dim, const Score& score, acc_t of_nothing, acc_t* held,
                        Streamed streamed) {
  const auto found = normaliser(live, score, held);
  const acc_t inverse = found.inverse(of_nothing);
  if (held) {
    write_row<acc_t>(to, live, dim, [&](int64_t col, auto count) { return load(held + col, count) * inverse; }, streamed);
  } else {
    const auto term = [&](int64_t col, auto count) { return exp_or_zero(score(col, count) - found.shift) * inverse; };
    write_row<acc_t>(to, live, dim, term, streamed);
  }
}

template <class acc_t, class scalar_t, class Score, class Streamed>
inline void log_softmax_row(scalar_t* to, int64_t dim, const Score& score, Streamed streamed) {
  const auto found = normaliser<acc_t>(dim, score, nullptr);
  const acc_t log_total = std::log(found.total);
  write_row<acc_t>(to, dim, dim, [&](int64_t col, auto count) { return (score(col, count) - found.shift) - log_total; }, streamed);
}

template <class scalar_t>
void forward(Output y, Input x, bool log) {
  using acc_t = accumulation_t<scalar_t>;
  const int64_t dim = x.dim();
  parallel_for(x.rows(), kGrain / dim + 1, [&](int64_t begin, int64_t end) {
    const Buffer<acc_t> buffer(dim);
    if_streamed(can_stream<scalar_t>(y), [&](auto streamed) {
      for (int64_t row = begin; row < end; ++row) {
        const scalar_t* from = row_of<scalar_t>(x, row);
        scalar_t* to = row_of<scalar_t>(y, row);
        const auto score = [from](int64_t col, auto count) { return load(from + col, count); };
        if (log) {
          log_softmax_row<acc_t>(to, dim, score, streamed);
        } else {
          softmax_row<acc_t>(to, dim, dim, score, std::numeric_limits<acc_t>::quiet_NaN(), buffer.held(), streamed);
        }
      }
    });
  });
}

// ---- scores

// What query number row mod queries sees of a row.
struct Sight {
  int64_t rows, dim, queries;
  bool causal;

  int64_t live(int64_t row) const {
    return causal ? std::min(std::max<int64_t>(row % queries + dim - queries + 1, 0), dim) : dim;
  }
  // The order in which rows are worked on: long and short ones in turn, so that threads have equal shares.
  int64_t row(int64_t index) const { return !causal ? index : index % 2 ? rows - 1 - index / 2 : index / 2; }
};

template <class T>
inline const T* mask_row(const Input& mask, int64_t row) {
  const int64_t query = row % mask.size[2], matrix = row / mask.size[2];
  const int64_t offset = matrix / mask.size[1] * mask.stride[0] + matrix % mask.size[1] * mask.stride[1] + query * mask.stride[2];
  return static_cast<const T*>(mask.data) + offset;
}

// Lanes of ones where a byte is not 0.
template <class acc_t>
inline auto true_lanes(const uint8_t* from, int64_t count) {
  using Word = std::conditional_t<sizeof(acc_t) == 8, uint64_t, uint32_t>;
  uint8_t bytes[kLanes<acc_t>] = {};
  std::memcpy(bytes, from, count);
#if PYLAYERS_VECTOR_BYTES == 64 && !defined(PYLAYERS_PORTABLE)
  if constexpr (sizeof(acc_t) == 4) return bit_cast<Words>(_mm512_cvtepu8_epi32(bit_cast<__m128i>(bytes))) != 0;
#elif PYLAYERS_VECTOR_BYTES == 32 && !defined(PYLAYERS_PORTABLE)
  if constexpr (sizeof(acc_t) == 4) return bit_cast<Words>(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(bit_cast<int64_t>(bytes)))) != 0;
#endif
  return __builtin_convertvector(bit_cast<Vector<uint8_t, kLanes<acc_t>>>(bytes), Vector<Word>) != 0;
}
template <class acc_t>
inline auto true_lanes(const uint8_t* from, Whole) { return true_lanes<acc_t>(from, kLanes<acc_t>); }

template <class scalar_t, class Masked>
void masked_forward(Output y, Input x, const Sight& sight, const Masked& masked) {
  using acc_t = accumulation_t<scalar_t>;
  parallel_for(sight.rows, kGrain / sight.dim + 1, [&](int64_t begin, int64_t end) {
    const Buffer<acc_t> buffer(sight.dim);
    if_streamed(can_stream<scalar_t>(y), [&](auto streamed) {
      for (int64_t index = begin; index < end; ++index) {
        const int64_t row = sight.row(index);
        const auto score = masked(row_of<scalar_t>(x, row), row);
        softmax_row<acc_t>(row_of<scalar_t>(y, row), sight.live(row), sight.dim, score, acc_t(0), buffer.held(), streamed);
      }
    });
  });
}

template <class scalar_t>
void masked_forward(Output y, Input x, Input mask, Input allowed, double given_scale, const Sight& sight) {
  using acc_t = accumulation_t<scalar_t>;
  const auto scale = static_cast<acc_t>(given_scale);
  if (mask) {
    masked_forward<scalar_t>(y, x, sight, [&](const scalar_t* from, int64_t row) {
      const scalar_t* added = mask_row<scalar_t>(mask, row);
      return [=](int64_t col, auto count) { return load(from + col, count) * scale + load(added + col, count); };
    });
  } else if (allowed) {
    masked_forward<scalar_t>(y, x, sight, [&](const scalar_t* from, int64_t row) {
      const uint8_t* seen = mask_row<uint8_t>(allowed, row);
      return [=](int64_t col, auto count) {
        return true_lanes<acc_t>(seen + col, count) ? load(from + col, count) * scale : splat(-kInfinity<acc_t>);
      };
    });
  } else {
    masked_forward<scalar_t>(y, x, sight, [&](const scalar_t* from, int64_t) {
      return [=](int64_t col, auto count) { return load(from + col, count) * scale; };
    });
  }
}

// ---- backward: dx = scale · y · (grad − Σ grad · y), with log dx = grad − eʸ · Σ grad

template <class scalar_t, bool log>
void backward(Output dx, Input grad, Input y, double given_scale, const Sight& sight) {
  using acc_t = accumulation_t<scalar_t>;
  const auto scale = static_cast<acc_t>(given_scale);
  parallel_for(sight.rows, kGrain / sight.dim + 1, [&](int64_t begin, int64_t end) {
    if_streamed(can_stream<scalar_t>(dx), [&](auto streamed) {
      for (int64_t index = begin; index < end; ++index) {
        const int64_t row = sight.row(index), live = sight.live(row);
        const scalar_t *g = row_of<scalar_t>(grad, row), *from = row_of<scalar_t>(y, row);
        const acc_t dot = row_sum<acc_t>(live, [&](int64_t col, auto count) {
          return log ? load(g + col, count) : load(g + col, count) * load(from + col, count);
        });
        const auto term = [&](int64_t col, auto count) {
          if constexpr (log) return load(g + col, count) - exp_or_zero(load(from + col, count)) * dot;
          return load(from + col, count) * ((load(g + col, count) - dot) * scale);
        };
        write_row<acc_t>(row_of<scalar_t>(dx, row), live, sight.dim, term, streamed);
      }
    });
  });
}

}  // namespace

void softmax_forward(Output y, Input x, int64_t log) {
  dispatch(x.dtype, [&](auto type) { forward<decltype(type)>(y, x, log); });
}

void softmax_backward(Output dx, Input grad, Input y, int64_t log) {
  const Sight whole{y.rows(), y.dim(), 1, false};
  dispatch(y.dtype, [&](auto type) {
    using scalar_t = decltype(type);
    (log ? backward<scalar_t, true> : backward<scalar_t, false>)(dx, grad, y, 1, whole);
  });
}

void softmax_masked_forward(Output y, Input x, Input mask, Input allowed, double scale, int64_t queries, int64_t causal) {
  const Sight sight{x.rows(), x.dim(), queries, causal != 0};
  dispatch(x.dtype, [&](auto type) { masked_forward<decltype(type)>(y, x, mask, allowed, scale, sight); });
}

void softmax_masked_backward(Output dx, Input grad, Input y, double scale, int64_t queries, int64_t causal) {
  const Sight sight{y.rows(), y.dim(), queries, causal != 0};
  dispatch(y.dtype, [&](auto type) { backward<decltype(type), false>(dx, grad, y, scale, sight); });
}

}  // namespace pylayers::cpu::PYLAYERS_ISA
