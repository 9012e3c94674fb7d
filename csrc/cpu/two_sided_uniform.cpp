// y_i = 0 with probability p_zero, else ± uniform in [low, high), from the random words of counter i alone. Nothing is read.
#include "philox.h"
#include "rows.h"

namespace pylayers::cpu::PYLAYERS_ISA {
namespace {

using Doubles = Vector<double>;

template <class acc_t>
struct Draw {
  uint64_t seed;
  acc_t low, span;
  uint32_t zero_below;

  Draw(int64_t seed, double low, double high, double p_zero)
      : seed(static_cast<uint64_t>(seed)),
        low(static_cast<acc_t>(low)),
        span(static_cast<acc_t>(high - low)),
        zero_below(philox_threshold(p_zero)) {}

  // Of the elements first, first + 1, …
  Vector<acc_t> operator()(uint64_t first) const {
    if constexpr (std::is_same_v<acc_t, double>) {
      const auto words = philox(counters(first, 1), seed);
      const Longs w = words[0] & kLowWord;
      const Longs u = (words[1] & kLowWord) << 21 | (words[2] & kLowWord) >> 11;
      return value<Longs, Vector<int64_t>>(w, u, 0x1p-53, 63);
    } else {
      const auto even = philox(counters(first, 2), seed), odd = philox(counters(first + 1, 2), seed);
      const auto word = [&](int i) { return bit_cast<Words>((even[i] & kLowWord) | odd[i] << 32); };
      return value<Words, Vector<int32_t>>(word(0), word(1) >> 8, 0x1p-24f, 31);
    }
  }

  // The sign goes to both terms of the sum: between product and sum it keeps the compiler from fusing them.
  template <class Bits, class Integers>
  Vector<acc_t> value(Bits w, Bits u, acc_t unit, int sign_bit) const {
    using Numbers = Vector<acc_t>;
    const Bits sign = w << sign_bit;
    const Numbers product = __builtin_convertvector(bit_cast<Integers>(u), Numbers) * unit * span;
    const Numbers number = bit_cast<Numbers>(bit_cast<Bits>(splat(low)) ^ sign) + bit_cast<Numbers>(bit_cast<Bits>(product) ^ sign);
    return w >> 1 < zero_below ? Numbers{} : number;
  }
};

template <class scalar_t>
void fill(Output y, int64_t seed, double low, double high, double p_zero) {
  using acc_t = accumulation_t<scalar_t>;
  const Draw<acc_t> draw(seed, low, high, p_zero);
  for_tiles(1, y.dim(), [&](int64_t, int64_t begin, int64_t end) {
    scalar_t* to = static_cast<scalar_t*>(y.data) + begin;
    for_vectors<kLanes<acc_t>>(end - begin, [&](int64_t col, auto count) { store(to + col, draw(begin + col), count); });
  });
}

}  // namespace

void two_sided_uniform(Output y, int64_t seed, double low, double high, double p_zero) {
  dispatch(y.dtype, [&](auto type) { fill<decltype(type)>(y, seed, low, high, p_zero); });
}

}  // namespace pylayers::cpu::PYLAYERS_ISA
