// Rows that begin anywhere, as vectors at multiples of their own size and a few columns around them: also rows of an odd number of
// columns, such as 50257 classes, move 16 bytes at a time.
#pragma once

#include "launch.cuh"

namespace pylayers::cuda {

template <int width>
struct Ragged {
  int head, edges;  // columns before the first vector; columns that are in none, fewer than 2 · width
  int64_t count;    // vectors

  template <class scalar_t>
  __device__ Ragged(const scalar_t* row, int64_t dim) {
    const int past = int(reinterpret_cast<uintptr_t>(row) / sizeof(scalar_t) % width);
    head = int(min(int64_t((width - past) % width), dim));
    count = uint64_t(dim - head) / width;
    edges = head + int(uint64_t(dim - head) % width);
  }
  __device__ int64_t edge(int i) const { return i < head ? i : i + count * width; }  // the column of number i
};

// Part number `part` of such a row, of `most` vectors at most. The edges belong to the first one.
template <int width>
struct Part {
  int64_t col;             // the first column of its vectors
  int count, edges, head;  // count: 0 or less where there are none
  int64_t behind;          // columns in vectors of the row

  __device__ Part(const Ragged<width>& row, unsigned part, int most)
      : col(row.head + int64_t(part) * most * width), count(int(min(row.count - int64_t(part) * most, int64_t(most)))),
        edges(part == 0 ? row.edges : 0), head(row.head), behind(row.count * width) {}
  __device__ int64_t edge(int i) const { return i < head ? i : i + behind; }
};

// A vector of numbers that lie anywhere, one by one.
template <int width, class scalar_t>
__device__ Vector<scalar_t, width> gather(const scalar_t* from) {
  Vector<scalar_t, width> out = {};
#pragma unroll
  for (int i = 0; i < width; ++i) {
    const auto one = reinterpret_cast<const Vector<scalar_t, 1>*>(from)[i];
    constexpr int words = sizeof(one.word) / sizeof(out.word[0]);
    if constexpr (words == 0) out.word[i / 2] |= uint32_t(one.word[0]) << 16 * (i % 2);
#pragma unroll
    for (int word = 0; word < words; ++word) out.word[i * words + word] = one.word[word];
  }
  return out;
}

// As load; `whole`: all vectors are there.
template <bool whole, class scalar_t, int width, int vectors, class Index>
__device__ void load_aligned(Vector<scalar_t, width> (&out)[vectors], const scalar_t* row, Index index, Index count) {
  if constexpr (!whole) return load(out, row, index, count);
  const auto* const from = reinterpret_cast<const Vector<scalar_t, width>*>(row);
#pragma unroll
  for (int v = 0; v < vectors; ++v) out[v] = from[Index(index + v * blockDim.x)];
}

// The same of vectors that may lie beside the multiples of their size. The question is asked once for all of them.
template <bool whole, class scalar_t, int width, int vectors, class Index>
__device__ void load_anywhere(Vector<scalar_t, width> (&out)[vectors], const scalar_t* row, Index index, Index count) {
  if (width == 1 || reinterpret_cast<uintptr_t>(row) % sizeof(out[0]) == 0) {
    load_aligned<whole>(out, row, index, count);
  } else {
#pragma unroll
    for (int v = 0; v < vectors; ++v) {
      const Index at = index + v * blockDim.x;
      out[v] = {};
      if (whole || at < count) out[v] = gather<width>(row + int64_t(at) * width);
    }
  }
}

// body(Access<scalar_t, width>{}) with vectors of 16 bytes, whatever the alignment; of float64, which is there for checking, one number.
template <class Body>
void dispatch_ragged(Dtype dtype, const Body& body) {
  switch (dtype) {
    case Dtype::float64: return body(Access<double, 1>{});
    case Dtype::float32: return body(Access<float, 4>{});
    case Dtype::float16: return body(Access<__half, 8>{});
    case Dtype::bfloat16: return body(Access<__nv_bfloat16, 8>{});
    case Dtype::int64: return;
  }
}

}  // namespace pylayers::cuda
