// Numbers as they are stored and as they are computed, and vectors of them that move in one access.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

namespace pylayers::cuda {

template <class scalar_t>
using acc_of = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;

// Kept as words, so that a vector that waits in registers takes no more of them than it has bytes.
template <class scalar_t, int vector_width>
struct alignas(vector_width * sizeof(scalar_t)) Vector {
  static constexpr int width = vector_width, bytes = width * sizeof(scalar_t);
  using Word = std::conditional_t<bytes % 4 == 0, uint32_t, uint16_t>;
  Word word[bytes / sizeof(Word)];
};

template <class acc_t, int width>
struct Values {
  acc_t value[width];
  __device__ acc_t& operator[](int i) { return value[i]; }
  __device__ const acc_t& operator[](int i) const { return value[i]; }
};

__device__ inline float2 unpack_pair(uint32_t word, __half) {
  return __half22float2(reinterpret_cast<const __half2&>(word));
}
__device__ inline float2 unpack_pair(uint32_t word, __nv_bfloat16) {
  return {__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000u)};
}
__device__ inline uint32_t pack_pair(float low, float high, __half) {
  const __half2 pair = __floats2half2_rn(low, high);
  return reinterpret_cast<const uint32_t&>(pair);
}
__device__ inline uint32_t pack_pair(float low, float high, __nv_bfloat16) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return reinterpret_cast<const uint32_t&>(pair);
}

template <class scalar_t, int width>
__device__ Values<acc_of<scalar_t>, width> unpack(const Vector<scalar_t, width>& in) {
  Values<acc_of<scalar_t>, width> out;
#pragma unroll
  for (int i = 0; i < width; ++i) {
    if constexpr (std::is_same_v<scalar_t, double>) {
      out[i] = __hiloint2double(in.word[2 * i + 1], in.word[2 * i]);
    } else if constexpr (std::is_same_v<scalar_t, float>) {
      out[i] = __uint_as_float(in.word[i]);
    } else {
      const float2 pair = unpack_pair(in.word[i / 2], scalar_t{});
      out[i] = i % 2 ? pair.y : pair.x;
    }
  }
  return out;
}

template <class scalar_t, int width>
__device__ Vector<scalar_t, width> pack(const Values<acc_of<scalar_t>, width>& in) {
  Vector<scalar_t, width> out;
#pragma unroll
  for (int i = 0; i < width; ++i) {
    if constexpr (std::is_same_v<scalar_t, double>) {
      out.word[2 * i] = __double2loint(in[i]);
      out.word[2 * i + 1] = __double2hiint(in[i]);
    } else if constexpr (std::is_same_v<scalar_t, float>) {
      out.word[i] = __float_as_uint(in[i]);
    } else if constexpr (width == 1) {
      out.word[0] = uint16_t(pack_pair(in[0], 0.f, scalar_t{}));
    } else if (i % 2 == 0) {
      out.word[i / 2] = pack_pair(in[i], in[i + 1], scalar_t{});
    }
  }
  return out;
}

// Makes the compiler unpack these vectors anew from here on: else it holds the numbers, in twice as many registers.
template <class scalar_t, int width, int vectors>
__device__ void stay_packed(Vector<scalar_t, width> (&held)[vectors]) {
  if constexpr (sizeof(scalar_t) == 2 && width > 1) {
#pragma unroll
    for (auto& vector : held) {
#pragma unroll
      for (auto& word : vector.word) asm volatile("" : "+r"(word));
    }
  }
}

// Vector number `index` of a row that has `count` of them; zeros past the end.
template <int width, class scalar_t, class Index>
__device__ Vector<scalar_t, width> load_one(const scalar_t* row, Index index, Index count) {
  Vector<scalar_t, width> vector = {};
  if (index < count) vector = reinterpret_cast<const Vector<scalar_t, width>*>(row)[index];
  return vector;
}

// Vectors index, index + blockDim.x, index + 2 · blockDim.x, …: every access of a warp is contiguous.
template <class scalar_t, int width, int vectors, class Index>
__device__ void load(Vector<scalar_t, width> (&out)[vectors], const scalar_t* row, Index index, Index count) {
#pragma unroll
  for (int v = 0; v < vectors; ++v) out[v] = load_one<width>(row, Index(index + v * blockDim.x), count);
}

template <class scalar_t, int width, class Index>
__device__ void store_one(scalar_t* row, Index index, Index count, const Values<acc_of<scalar_t>, width>& in) {
  if (index < count) reinterpret_cast<Vector<scalar_t, width>*>(row)[index] = pack<scalar_t>(in);
}

// Accumulators to an aligned place, 16 bytes at a time where there are as many.
template <class acc_t, int width>
__device__ void store_sums(acc_t* to, const Values<acc_t, width>& sums) {
  constexpr int step = width * sizeof(acc_t) >= 16 ? 16 / sizeof(acc_t) : 1;
#pragma unroll
  for (int i = 0; i < width; i += step) {
    // By its intrinsic: of some that are stored as one value the compiler makes four stores.
    if constexpr (std::is_same_v<acc_t, float> && step == 4) {
      __stcg(reinterpret_cast<float4*>(to + i), make_float4(sums[i], sums[i + 1], sums[i + 2], sums[i + 3]));
    } else {
#pragma unroll
      for (int j = 0; j < step; ++j) to[i + j] = sums[i + j];
    }
  }
}

}  // namespace pylayers::cuda
