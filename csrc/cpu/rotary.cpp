// Every pair (a, b) of the rotated features of a head becomes (a · c − b · s, b · c + a · s); the other features are copied.
//
// A thread takes a few tokens of a batch, and their heads in the order in which they lie in memory. Each number of q and k is
// read and written once. Interleaved pairs stay in their vector: x · (c, c, …) + swapped(x) · (−s, s, …). Halves of a few whole
// vectors have their c and s loaded once for all heads of a token.
#include "rows.h"

namespace pylayers::cpu::PYLAYERS_ISA {
namespace {

constexpr int64_t kTokens = 8;  // of a tile

using Doubles = Vector<double>;

inline Floats swapped(Floats v) {
  const auto pairs = bit_cast<Vector<uint64_t>>(v);
  return bit_cast<Floats>(pairs << 32 | pairs >> 32);
}
inline Doubles swapped(Doubles v) {
  Doubles result;
  for (int i = 0; i < kLanes<double>; ++i) result[i] = v[i ^ 1];
  return result;
}

// Each of the numbers that are half a vector twice; of a tail, only its numbers are read.
inline Floats twice(const float* from, int64_t count = kFloats) {
  Vector<uint32_t, kFloats / 2> single = {};
  std::memcpy(&single, from, count / 2 * sizeof(float));
  const auto pairs = __builtin_convertvector(single, Vector<uint64_t>);
  return bit_cast<Floats>(pairs << 32 | pairs);
}
inline Doubles twice(const double* from, int64_t count = kLanes<double>) {
  Doubles result = {};
  for (int64_t i = 0; i < count; ++i) result[i] = from[i / 2];
  return result;
}
template <class acc_t>
inline Vector<acc_t> twice(const acc_t* from, Whole) { return twice(from); }

// −x, x, −x, x, …
template <class acc_t>
inline Vector<acc_t> alternating(acc_t x) {
  Vector<acc_t> result;
  for (int i = 0; i < kLanes<acc_t>; ++i) result[i] = i % 2 ? x : -x;
  return result;
}

struct Tile {
  int64_t batch, first, last;
};

template <class View>
auto row_at(const View& x, int64_t batch, int64_t token, int64_t head) {
  return batch * x.stride[0] + token * x.stride[1] + head * x.stride[2];
}

bool tokens_lie_first(const Output& y) { return y.stride[1] >= y.stride[2]; }

// body(token, head) in the order in which the rows of y lie.
template <class Body>
void for_rows(const Output& y, const Tile& tile, const Body& body) {
  const int64_t heads = y.size[2];
  if (tokens_lie_first(y)) {
    for (int64_t token = tile.first; token < tile.last; ++token)
      for (int64_t head = 0; head < heads; ++head) body(token, head);
  } else {
    for (int64_t head = 0; head < heads; ++head)
      for (int64_t token = tile.first; token < tile.last; ++token) body(token, head);
  }
}

template <class scalar_t>
bool can_stream_rows(const Output& y, int64_t half) {
  constexpr int64_t size = sizeof(typename Packed<scalar_t>::type), lanes = size / static_cast<int64_t>(sizeof(scalar_t));
  if (reinterpret_cast<uintptr_t>(y.data) % size || half % lanes) return false;
  int64_t bytes = y.size[3] * static_cast<int64_t>(sizeof(scalar_t));
  for (int i = 0; i < 3; ++i) {
    if (y.size[i] > 1 && y.stride[i] % lanes) return false;
    bytes *= y.size[i];
  }
  return larger_than_caches(bytes);
}

template <class scalar_t>
class Rotation {
  using acc_t = accumulation_t<scalar_t>;

 public:
  Rotation(const Input& cos, const Input& sin, const Input& positions, bool interleaved, bool inverse)
      : cos_(cos), sin_(sin), positions_(positions), interleaved_(interleaved), sign_(inverse ? -1 : 1) {}

  void rotate(const Output& y, const Input& x, const Tile& tile) const {
    if_streamed(can_stream_rows<scalar_t>(y, half()), [&](auto streamed) {
      interleaved_ ? rotate_interleaved(y, x, tile, streamed) : rotate_halves(y, x, tile, streamed);
    });
    const int64_t begin = 2 * half(), bytes = (y.size[3] - begin) * static_cast<int64_t>(sizeof(scalar_t));
    if (bytes == 0) return;
    for_rows(y, tile, [&](int64_t token, int64_t head) {
      std::memcpy(to(y, tile.batch, token, head) + begin, from(x, tile.batch, token, head) + begin, bytes);
    });
  }

 private:
  int64_t half() const { return cos_.size[2]; }

  static scalar_t* to(const Output& y, int64_t batch, int64_t token, int64_t head) {
    return static_cast<scalar_t*>(y.data) + row_at(y, batch, token, head);
  }
  static const scalar_t* from(const Input& x, int64_t batch, int64_t token, int64_t head) {
    return static_cast<const scalar_t*>(x.data) + row_at(x, batch, token, head);
  }
  const acc_t* row_of(const Input& table, int64_t batch, int64_t token) const {
    const auto* position = static_cast<const int64_t*>(positions_.data) + (positions_ ? batch * positions_.stride[0] + token : 0);
    return static_cast<const acc_t*>(table.data) + batch * table.stride[0] + (positions_ ? *position : token) * table.stride[1];
  }

  template <class Streamed>
  void rotate_halves(const Output& y, const Input& x, const Tile& tile, Streamed streamed) const {
    constexpr int64_t lanes = kLanes<acc_t>;
    const int64_t half = this->half();
    if (tokens_lie_first(y)) {
      if (half == lanes) return rotate_tokens<1>(y, x, tile, streamed);
      if (half == 2 * lanes) return rotate_tokens<2>(y, x, tile, streamed);
      if (half == 4 * lanes) return rotate_tokens<4>(y, x, tile, streamed);
    }
    for_rows(y, tile, [&](int64_t token, int64_t head) {
      const acc_t *cos = row_of(cos_, tile.batch, token), *sin = row_of(sin_, tile.batch, token);
      const scalar_t* in = from(x, tile.batch, token, head);
      scalar_t* out = to(y, tile.batch, token, head);
      for_vectors<kLanes<acc_t>>(half, [&](int64_t col, auto count) {
        const auto a = load(in + col, count), b = load(in + half + col, count);
        const auto c = load(cos + col, count), s = load(sin + col, count) * sign_;
        put(out + col, a * c - b * s, count, streamed);
        put(out + half + col, b * c + a * s, count, streamed);
      });
    });
  }

  // Where half is so many vectors.
  template <int vectors, class Streamed>
  void rotate_tokens(const Output& y, const Input& x, const Tile& tile, Streamed streamed) const {
    constexpr int64_t lanes = kLanes<acc_t>, half = vectors * lanes;
    for (int64_t token = tile.first; token < tile.last; ++token) {
      const acc_t *cos = row_of(cos_, tile.batch, token), *sin = row_of(sin_, tile.batch, token);
      Vector<acc_t> c[vectors], s[vectors];
      for (int i = 0; i < vectors; ++i) c[i] = load(cos + i * lanes), s[i] = load(sin + i * lanes) * sign_;
      const scalar_t* in = from(x, tile.batch, token, 0);
      scalar_t* out = to(y, tile.batch, token, 0);
      for (int64_t head = 0; head < y.size[2]; ++head, in += x.stride[2], out += y.stride[2]) {
#pragma GCC unroll 4
        for (int i = 0; i < vectors; ++i) {
          const auto a = load(in + i * lanes), b = load(in + half + i * lanes);
          put(out + i * lanes, a * c[i] - b * s[i], Whole(), streamed);
          put(out + half + i * lanes, b * c[i] + a * s[i], Whole(), streamed);
        }
      }
    }
  }

  template <class Streamed>
  void rotate_interleaved(const Output& y, const Input& x, const Tile& tile, Streamed streamed) const {
    const auto signs = alternating(sign_);
    for_rows(y, tile, [&](int64_t token, int64_t head) {
      const acc_t *cos = row_of(cos_, tile.batch, token), *sin = row_of(sin_, tile.batch, token);
      const scalar_t* in = from(x, tile.batch, token, head);
      scalar_t* out = to(y, tile.batch, token, head);
      for_vectors<kLanes<acc_t>>(2 * half(), [&](int64_t col, auto count) {
        const auto v = load(in + col, count);
        put(out + col, v * twice(cos + col / 2, count) + swapped(v) * (twice(sin + col / 2, count) * signs), count, streamed);
      });
    });
  }

  Input cos_, sin_, positions_;
  bool interleaved_;
  acc_t sign_;
};

}  // namespace

void rotary(Output q_out, Output k_out, Input q, Input k, Input cos, Input sin, Input positions, int64_t interleaved,
            int64_t inverse) {
  const int64_t tokens = q.size[1], tiles = (tokens + kTokens - 1) / kTokens, heads = q.size[2] + (k ? k.size[2] : 0);
  dispatch(q.dtype, [&](auto type) {
    const Rotation<decltype(type)> rotation(cos, sin, positions, interleaved, inverse);
    parallel_for(q.size[0] * tiles, kGrain / (std::min(tokens, kTokens) * heads * q.size[3]) + 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t first = i % tiles * kTokens;
        const Tile tile{i / tiles, first, std::min(first + kTokens, tokens)};
        rotation.rotate(q_out, q, tile);
        if (k) rotation.rotate(k_out, k, tile);
      }
    });
  });
}

}  // namespace pylayers::cpu::PYLAYERS_ISA
