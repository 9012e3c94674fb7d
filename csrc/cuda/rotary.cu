// Every pair (a, b) of the rotated features of a head becomes (a · c − b · s, b · c + a · s); the other features are copied.
//
// A thread stands at the same two vectors of several heads of one token, first those of q, then those of k: it reads its part of
// the tables once for all of them. The two vectors lie half a rotated head apart, in either layout, so that every access of
// neighbouring threads is contiguous: they are (a, …) and (b, …) in halves, and whole pairs in each where these are interleaved.
// Each number of q and k is read and written once; a row of the tables is read by every group of threads of its token.

#include <cmath>
#include <initializer_list>

#include "device/launch.cuh"

namespace pylayers::cuda {
namespace {

constexpr int kThreads = 256, kMostTokens = 64;  // of a block
constexpr int kAtOnce = 4;                       // heads whose vectors are under way together
constexpr int64_t kMany = int64_t(1) << 21;      // pairs of vectors, of which a thread may take more

template <class scalar_t>
struct Heads {
  scalar_t* y;
  const scalar_t* x;
  int64_t count, y_batch, y_token, y_head, x_batch, x_token, x_head;
};

template <class scalar_t>
struct Rotation {
  Heads<scalar_t> q, k;
  const acc_of<scalar_t> *cos, *sin;
  const int64_t* positions;
  int64_t tokens, rows, half, head_dim;
  int64_t cos_batch, cos_row, sin_batch, sin_row, positions_batch;
  acc_of<scalar_t> sign;
  unsigned tiles;  // of the tokens of a batch
};

// Where the heads of one token begin.
template <class scalar_t>
struct Token {
  scalar_t *q_out, *k_out;
  const scalar_t *q, *k;

  __device__ Token(const Rotation<scalar_t>& args, int64_t batch, int64_t token)
      : q_out(args.q.y + batch * args.q.y_batch + token * args.q.y_token),
        k_out(args.k.y + batch * args.k.y_batch + token * args.k.y_token),
        q(args.q.x + batch * args.q.x_batch + token * args.q.x_token),
        k(args.k.x + batch * args.k.x_batch + token * args.k.x_token) {}
  __device__ const scalar_t* in(const Rotation<scalar_t>& args, int64_t head) const {
    return head < args.q.count ? q + head * args.q.x_head : k + (head - args.q.count) * args.k.x_head;
  }
  __device__ scalar_t* out(const Rotation<scalar_t>& args, int64_t head) const {
    return head < args.q.count ? q_out + head * args.q.y_head : k_out + (head - args.q.count) * args.k.y_head;
  }
};

template <class acc_t, int count>
__device__ void load_table(acc_t* to, const acc_t* from) {
  constexpr int step = count * int(sizeof(acc_t)) > 16 ? 16 / int(sizeof(acc_t)) : count;
#pragma unroll
  for (int i = 0; i < count; i += step) {
    const auto some = unpack(load_one<step>(from, i / step, count / step));
#pragma unroll
    for (int j = 0; j < step; ++j) to[i + j] = some[j];
  }
}

// The cosines, or sines, of the pairs in the two vectors of number `unit`.
template <int width, bool interleaved, class acc_t>
__device__ Values<acc_t, width> table_of(const acc_t* row, int64_t unit, int64_t half) {
  Values<acc_t, width> values;
  if constexpr (interleaved && width > 1) {
    load_table<acc_t, width / 2>(values.value, row + unit * (width / 2));
    load_table<acc_t, width / 2>(values.value + width / 2, row + half / 2 + unit * (width / 2));
  } else {
    load_table<acc_t, width>(values.value, row + unit * width);
  }
  return values;
}

template <class acc_t>
__device__ void turn(acc_t& a, acc_t& b, acc_t c, acc_t s) {
  const acc_t first = a * c - b * s;
  b = b * c + a * s;
  a = first;
}

template <bool interleaved, class acc_t, int width>
__device__ void turn(Values<acc_t, width>& low, Values<acc_t, width>& high, const Values<acc_t, width>& c,
                     const Values<acc_t, width>& s) {
#pragma unroll
  for (int i = 0; i < width; ++i) {
    if constexpr (interleaved && width > 1) {
      auto& own = i < width / 2 ? low : high;
      const int first = 2 * i % width;
      turn(own[first], own[first + 1], c[i], s[i]);
    } else {
      turn(low[i], high[i], c[i], s[i]);
    }
  }
}

// Two vectors of every head of a token: where they are, in vectors, and how they turn.
template <class scalar_t, int width>
struct Unit {
  using acc_t = acc_of<scalar_t>;
  int64_t low, high;
  bool turns, has_high;
  Values<acc_t, width> cos, sin;
};

template <class scalar_t, int width, bool interleaved>
__device__ Unit<scalar_t, width> unit_at(const Rotation<scalar_t>& args, int64_t index, int64_t batch, int64_t token) {
  const int64_t turning = args.half / width;
  Unit<scalar_t, width> unit;
  unit.turns = index < turning;
  if (!unit.turns) {
    const int64_t vectors = args.head_dim / width, copied = vectors - 2 * turning;
    unit.low = turning + index;
    unit.high = unit.low + (copied + 1) / 2;
    unit.has_high = unit.high < vectors;
    return unit;
  }
  unit.low = interleaved && width == 1 ? 2 * index : index;
  unit.high = interleaved && width == 1 ? unit.low + 1 : index + turning;
  unit.has_high = true;
  const int64_t row = args.positions ? args.positions[batch * args.positions_batch + token] : token;
  const bool known = row >= 0 && row < args.rows;
  unit.cos = table_of<width, interleaved>(args.cos + batch * args.cos_batch + (known ? row : 0) * args.cos_row, index, args.half);
  unit.sin = table_of<width, interleaved>(args.sin + batch * args.sin_batch + (known ? row : 0) * args.sin_row, index, args.half);
#pragma unroll
  for (int i = 0; i < width; ++i) unit.sin[i] = known ? unit.sin[i] * args.sign : acc_of<scalar_t>(NAN);
  return unit;
}

template <class scalar_t, int width, bool interleaved>
__global__ void __launch_bounds__(kThreads) rotary_kernel(const Rotation<scalar_t> args) {
  const int64_t batch = blockIdx.x / args.tiles, token = int64_t(blockIdx.x % args.tiles) * blockDim.z + threadIdx.z;
  if (token >= args.tokens) return;
  const Token<scalar_t> at(args, batch, token);
  const int64_t turning = args.half / width, units = turning + (args.head_dim / width - 2 * turning + 1) / 2;
  const int64_t heads = args.q.count + args.k.count, step = blockDim.y;
  for (int64_t number = threadIdx.x; number < units; number += blockDim.x) {
    const auto unit = unit_at<scalar_t, width, interleaved>(args, number, batch, token);
    for (int64_t first = threadIdx.y; first < heads; first += kAtOnce * step) {
      Vector<scalar_t, width> low[kAtOnce], high[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const int64_t head = first + i * step, end = head < heads ? args.head_dim / width : 0;
        low[i] = load_one<width>(at.in(args, head), unit.low, end);
        high[i] = load_one<width>(at.in(args, head), unit.high, unit.has_high ? end : 0);
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const int64_t head = first + i * step;
        if (head >= heads) break;
        auto* y = reinterpret_cast<Vector<scalar_t, width>*>(at.out(args, head));
        if (unit.turns) {
          auto a = unpack(low[i]), b = unpack(high[i]);
          turn<interleaved>(a, b, unit.cos, unit.sin);
          low[i] = pack<scalar_t>(a);
          high[i] = pack<scalar_t>(b);
        }
        y[unit.low] = low[i];
        if (unit.has_high) y[unit.high] = high[i];
      }
    }
  }
}

template <class scalar_t>
Heads<scalar_t> heads_of(const Output& y, const Input& x) {
  return {data<scalar_t>(y),  data<const scalar_t>(x), x ? x.size[2] : 0, y.stride[0], y.stride[1], y.stride[2], x.stride[0],
          x.stride[1], x.stride[2]};
}

// The power of two, 16 at most, that divides the address and the strides of a view, in bytes.
template <class View>
int alignment(const View& view, int element) {
  uintptr_t bits = 16 | reinterpret_cast<uintptr_t>(view.data);
  for (int i = 0; i + 1 < view.dims; ++i)
    if (view.size[i] > 1) bits |= uintptr_t(view.stride[i] * element);
  return int(bits & -bits);
}

// The widest access at which both halves of the rotated features begin and end, and every head.
int access_bytes(std::initializer_list<int> heads, std::initializer_list<int> tables, int64_t half, int64_t head_dim, int element) {
  uintptr_t bits = uintptr_t(half * element) | uintptr_t(head_dim * element);
  for (const int bytes : heads) bits |= uintptr_t(bytes);
  int bytes = int(std::min<uintptr_t>(bits & -bits, 16));
  // As many columns of the tables belong to a vector, but 16 bytes of them are the widest access.
  const int number = element == 8 ? 8 : 4;
  for (const int table : tables)
    if (table < 16) bytes = std::min(bytes, table / number * element);
  return bytes;
}

}  // namespace

void rotary(Stream stream, Output q_out, Output k_out, Input q, Input k, Input cos, Input sin, Input positions, int64_t interleaved,
            int64_t inverse) {
  const int64_t half = cos.size[2], head_dim = q.size[3], heads = q.size[2] + k.size[2], tokens = q.size[1];
  const int element = bytes_of(q.dtype), number = element == 8 ? 8 : 4;
  const int bytes = access_bytes({alignment(q_out, element), alignment(k_out, element), alignment(q, element), alignment(k, element)},
                                 {alignment(cos, number), alignment(sin, number)}, half, head_dim, element);
  dispatch(q.dtype, bytes, [&](auto access) {
    using scalar_t = typename decltype(access)::scalar_t;
    using acc_t = acc_of<scalar_t>;
    constexpr int width = decltype(access)::width;
    const int64_t units = half / width + ceil_div(head_dim / width - 2 * (half / width), 2);
    const int64_t each = q.size[0] * tokens * heads * units >= kMany ? 2 * kAtOnce : kAtOnce;
    const int lanes = int(std::min<int64_t>(units, kThreads));
    const int groups = int(std::min<int64_t>(ceil_div(heads, each), kThreads / lanes));
    const int together = int(std::min<int64_t>({kThreads / (lanes * groups), kMostTokens, tokens}));
    const dim3 threads(lanes, groups, together);
    const int64_t tiles = ceil_div(tokens, together), blocks = q.size[0] * tiles;
    const Rotation<scalar_t> rotation{heads_of<scalar_t>(q_out, q), heads_of<scalar_t>(k_out, k), data<const acc_t>(cos),
                                      data<const acc_t>(sin), data<const int64_t>(positions), tokens, cos.size[1], half, head_dim,
                                      cos.stride[0], cos.stride[1], sin.stride[0], sin.stride[1], positions.stride[0],
                                      acc_t(inverse ? -1 : 1), unsigned(tiles)};
    interleaved ? launch("rotary", rotary_kernel<scalar_t, width, true>, blocks, threads, 0, stream, rotation)
                : launch("rotary", rotary_kernel<scalar_t, width, false>, blocks, threads, 0, stream, rotation);
  });
}

}  // namespace pylayers::cuda
