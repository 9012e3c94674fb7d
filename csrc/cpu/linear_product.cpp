// y = a · b + added in float32, of float32 where the library has no good product for the processor, and of bfloat16, whose library's
// product rounds y to bfloat16.
//
// A tile of y, kHeight rows by a few vectors, is summed in registers over at most kDepth products, then added to what y has. Both
// operands are copied first, for a tile to read each from its beginning to its end: b into panels as wide as a tile, the rows of a task
// into strips as high as one. What lies in them behind the last row or column is never stored. Every sum is made in the same order,
// whatever the threads.
#include <memory>

#include "rows.h"

namespace pylayers::cpu::PYLAYERS_ISA {
namespace {

constexpr int kVectors = 2, kWidth = kVectors * kFloats;
constexpr int kHeight = kVectorBytes == 64 ? 12 : 4;  // as many sums as there are registers, less those for b and one of a
constexpr int64_t kDepth = 256;                       // of a panel, in words of 32 bits: 32 KB of AVX-512
constexpr int64_t kLine = 16;                         // words of a cache line
constexpr int64_t kStride = kDepth + kLine;           // of the rows of a strip: a power of two would put them into one set of the cache
constexpr int64_t kStrips = 8;                        // of a task

int64_t pieces(int64_t total, int64_t size) { return (total + size - 1) / size; }

template <class T>
struct Matrix {
  const T* data;
  int64_t row, col;  // strides
  const T* at(int64_t i, int64_t j) const { return data + i * row + j * col; }
  Matrix from(int64_t i, int64_t j) const { return {data ? at(i, j) : nullptr, row, col}; }
};

// What a word of a panel or strip holds, and what it adds to a sum.
struct Single {
  using number = float;
  static constexpr int64_t count = 1;
  static Floats spread(float word) { return splat(word); }
  static Floats add(Floats sum, Floats a, Floats b) { return sum + a * b; }
};

// Two neighbours in the sum. AVX-512 has an instruction for them on the processors for which the op asks for this.
struct Pair {
  using number = bfloat16;
  static constexpr int64_t count = 2;
  static Floats spread(float word) { return bit_cast<Floats>(splat(bit_cast<uint32_t>(word))); }
  static Floats add(Floats sum, Floats a, Floats b) {
#if PYLAYERS_VECTOR_BYTES == 64 && !defined(PYLAYERS_PORTABLE)
    asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
#else
    const Words x = bit_cast<Words>(a), y = bit_cast<Words>(b), high = Words{} + 0xffff0000u;
    sum += bit_cast<Floats>(x << 16) * bit_cast<Floats>(y << 16);
    return sum + bit_cast<Floats>(x & high) * bit_cast<Floats>(y & high);
#endif
  }
};

// words[n] = low[n], high[n]; no high: 0.
inline void pair(float* words, const bfloat16* low, const bfloat16* high, int64_t stride, int64_t columns) {
  int64_t n = 0;
  if (stride == 1 && high) {
    for (; n + kFloats <= columns; n += kFloats) {
      Vector<uint16_t, kFloats> one, other;
      std::memcpy(&one, low + n, sizeof(one));
      std::memcpy(&other, high + n, sizeof(other));
      store(words + n, bit_cast<Floats>(widen(one) | widen(other) << 16));
    }
  }
  for (; n < columns; ++n) words[n] = bit_cast<float>(low[n * stride].bits | (high ? uint32_t{high[n * stride].bits} << 16 : 0));
}

// lane < by ? lane of one, the others of other, from or to the places that the halves of a square exchange.
template <int by, bool first, int... lane>
inline Floats exchanged(Floats one, Floats other, std::integer_sequence<int, lane...>) {
#define PYLAYERS_FROM(l) (first ? ((l) & by ? kFloats + (l) - by : (l)) : ((l) & by ? kFloats + (l) : (l) + by))
#if defined(__clang__)
  return __builtin_shufflevector(one, other, PYLAYERS_FROM(lane)...);
#else
  return __builtin_shuffle(one, other, Indices<float>{PYLAYERS_FROM(lane)...});
#endif
#undef PYLAYERS_FROM
}

// Of a square of numbers in vectors: rows become columns.
template <int by = kFloats / 2>
inline void transpose(Floats* square) {
  if constexpr (by > 0) {
#pragma GCC unroll 16
    for (int i = 0; i < kFloats; ++i) {
      if (i & by) continue;
      const Floats one = square[i], other = square[i + by];
      square[i] = exchanged<by, true>(one, other, Lanes<float>());
      square[i + by] = exchanged<by, false>(one, other, Lanes<float>());
    }
    transpose<by / 2>(square);
  }
}

// panel[k, n] = b[k, n], a word for every `count` of the depth.
void pack_panel(float* panel, const Matrix<float>& b, int64_t depth, int64_t columns) {
  if (b.col == 1) {
    for (int64_t k = 0; k < depth; ++k) {
      if (columns == kWidth) std::memcpy(panel + k * kWidth, b.at(k, 0), kWidth * sizeof(float));
      else std::copy_n(b.at(k, 0), columns, panel + k * kWidth);
    }
    return;
  }
  int64_t k = 0;
  if (b.row == 1) {
    for (; k + kFloats <= depth; k += kFloats) {
      for (int64_t n = 0; n < columns; n += kFloats) {
        Floats square[kFloats];
        for (int i = 0; i < kFloats; ++i) square[i] = n + i < columns ? load(b.at(k, n + i)) : Floats{};
        transpose(square);
        for (int i = 0; i < kFloats; ++i) store(panel + (k + i) * kWidth + n, square[i]);
      }
    }
  }
  for (; k < depth; ++k)
    for (int64_t n = 0; n < columns; ++n) panel[k * kWidth + n] = *b.at(k, n);
}

void pack_panel(float* panel, const Matrix<bfloat16>& b, int64_t depth, int64_t columns) {
  int64_t k = 0;
  if (b.row == 1 && b.col % 2 == 0 && reinterpret_cast<uintptr_t>(b.data) % sizeof(float) == 0) {  // words as they are to be
    pack_panel(panel, Matrix<float>{reinterpret_cast<const float*>(b.data), 1, b.col / 2}, depth / 2, columns);
    k = depth / 2 * 2;
  }
  for (; k < depth; k += 2) pair(panel + k / 2 * kWidth, b.at(k, 0), k + 1 < depth ? b.at(k + 1, 0) : nullptr, b.col, columns);
}

// How a[i, k] lies in a strip: as in a, whose rows or columns are copied in one piece.
struct ByRows {
  static constexpr int64_t row = kStride, col = 1;
};
struct ByColumns {
  static constexpr int64_t row = 1, col = kHeight;
};
constexpr int64_t kStrip = kHeight * kStride;

template <class Layout>
void pack_strip(float* strip, const Matrix<float>& a, int64_t rows, int64_t depth) {
  if constexpr (Layout::row == 1) {
    for (int64_t k = 0; k < depth; ++k) {
      if (rows == kHeight) std::memcpy(strip + k * kHeight, a.at(0, k), kHeight * sizeof(float));
      else std::copy_n(a.at(0, k), rows, strip + k * kHeight);
    }
  } else {
    for (int64_t i = 0; i < rows; ++i) {
      if (a.col == 1) std::copy_n(a.at(i, 0), depth, strip + i * kStride);
      else for (int64_t k = 0; k < depth; ++k) strip[i * kStride + k] = *a.at(i, k);
    }
  }
}

template <class Layout>
void pack_strip(float* strip, const Matrix<bfloat16>& a, int64_t rows, int64_t depth) {
  for (int64_t k = 0; Layout::row == 1 && k < depth; k += 2)
    pair(strip + k / 2 * kHeight, a.at(0, k), k + 1 < depth ? a.at(0, k + 1) : nullptr, 1, rows);
  for (int64_t i = 0; Layout::row != 1 && i < rows; ++i) {
    float* const row = strip + i * kStride;
    const int64_t whole = a.col == 1 ? depth / 2 * 2 : 0;
    std::memcpy(row, a.at(i, 0), whole * sizeof(bfloat16));
    for (int64_t k = whole; k < depth; k += 2) pair(row + k / 2, a.at(i, k), k + 1 < depth ? a.at(i, k + 1) : nullptr, 1, 1);
  }
}

// y[i, n] = Σ_k strip[i, k] · panel[k, n], with add + before[i, n].
template <class Word, class Layout, bool add>
void tile(float* y, int64_t stride, const Matrix<float>& before, const float* strip, const float* panel, int64_t depth) {
  Floats sums[kHeight][kVectors] = {};
  for (int64_t k = 0; k < depth; ++k, panel += kWidth, strip += Layout::col) {
    Floats b[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) b[v] = load(panel + v * kFloats);
#pragma GCC unroll 12
    for (int i = 0; i < kHeight; ++i) {
      const Floats a = Word::spread(strip[i * Layout::row]);
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sums[i][v] = Word::add(sums[i][v], a, b[v]);
    }
  }
#pragma GCC unroll 12
  for (int i = 0; i < kHeight; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v)
      store(y + i * stride + v * kFloats, add ? load(before.at(i, v * kFloats)) + sums[i][v] : sums[i][v]);
  }
}

// The first rows and columns of a tile.
template <class Word, class Layout>
void edge(float* y, int64_t stride, const Matrix<float>& before, const float* strip, const float* panel, int64_t depth, int64_t rows,
          int64_t columns) {
  alignas(64) float whole[kHeight * kWidth];
  tile<Word, Layout, false>(whole, kWidth, {}, strip, panel, depth);
  for (int64_t i = 0; i < rows; ++i) {
    for_vectors<kFloats>(columns, [&](int64_t col, auto count) {
      const auto sum = load(whole + i * kWidth + col, count);
      store(y + i * stride + col, before.data ? load(before.at(i, col), count) + sum : sum, count);
    });
  }
}

// One call. Depth is cut into parts of at most `most` words, columns into panels.
template <class Word>
struct Product {
  Matrix<typename Word::number> a, b;
  Matrix<float> added, y;
  float* panels;
  int64_t rows, columns, inner, most;

  int64_t start(int64_t part) const { return part * most * Word::count; }
  int64_t parts() const { return pieces(inner, start(1)); }
  int64_t depth(int64_t part) const { return std::min(start(1), inner - start(part)); }
  int64_t words(int64_t part) const { return pieces(depth(part), Word::count); }
  int64_t width(int64_t panel) const { return std::min<int64_t>(kWidth, columns - panel * kWidth); }
  float* place(int64_t index) const { return panels + index * most * kWidth; }

  // The panels [left, right) of the parts [first, last), as many as there is place for.
  void pack(int64_t first, int64_t last, int64_t left, int64_t right) const {
    const int64_t count = right - left;
    parallel_for((last - first) * count, kGrain / (most * kWidth) + 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t part = first + i / count, panel = left + i % count;
        pack_panel(place(i), b.from(start(part), panel * kWidth), depth(part), width(panel));
      }
    });
  }

  // Their products, added to y or to what is to be added.
  template <class Layout>
  void multiply(int64_t first, int64_t last, int64_t left, int64_t right) const {
    const int64_t all = pieces(rows, kHeight), least = pieces(all, kStrips), equal = pieces(least, threads()) * threads();
    const int64_t tasks = std::min(all, equal), groups = std::min(right - left, pieces(threads(), tasks));
    parallel_for(tasks * groups, 1, [&](int64_t begin, int64_t end) {
      const std::unique_ptr<float[]> strips(new float[kStrips * kStrip]);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t task = i % tasks, top = all * task / tasks * kHeight, bottom = std::min(all * (task + 1) / tasks * kHeight, rows);
        const int64_t group = i / tasks;
        const int64_t from = left + (right - left) * group / groups, to = left + (right - left) * (group + 1) / groups;
        for (int64_t part = first; part < last; ++part) {
          for (int64_t row = top; row < bottom; row += kHeight) {
            const int64_t some = std::min<int64_t>(kHeight, bottom - row);
            pack_strip<Layout>(&strips[(row - top) / kHeight * kStrip], a.from(row, start(part)), some, depth(part));
          }
          // One panel after the other: it stays in the cache for all strips.
          for (int64_t panel = from; panel < to; ++panel) {
            const float* own = place((part - first) * (right - left) + panel - left);
            for (int64_t row = top; row < bottom; row += kHeight)
              write<Layout>(row, std::min(row + kHeight, bottom), panel, part, &strips[(row - top) / kHeight * kStrip], own);
          }
        }
      }
    });
  }

  template <class Layout>
  void write(int64_t row, int64_t bottom, int64_t panel, int64_t part, const float* strip, const float* own) const {
    const Matrix<float> before = (part ? y : added).from(row, panel * kWidth);
    float* const to = const_cast<float*>(y.at(row, panel * kWidth));
    if (bottom - row < kHeight || width(panel) < kWidth) edge<Word, Layout>(to, y.row, before, strip, own, words(part), bottom - row, width(panel));
    else (before.data ? tile<Word, Layout, true> : tile<Word, Layout, false>)(to, y.row, before, strip, own, words(part));
  }

  void run(int64_t capacity) const {
    const int64_t all = pieces(columns, kWidth), wide = std::min(all, capacity), deep = std::min(parts(), std::max<int64_t>(capacity / all, 1));
    for (int64_t left = 0; left < all; left += wide) {
      const int64_t right = std::min(left + wide, all);
      for (int64_t first = 0; first < parts(); first += deep) {
        const int64_t last = std::min(first + deep, parts());
        pack(first, last, left, right);
        a.row == 1 ? multiply<ByColumns>(first, last, left, right) : multiply<ByRows>(first, last, left, right);
      }
    }
  }
};

template <class T, class View>
Matrix<T> matrix(const View& x) {
  return {static_cast<const T*>(x.data), x.stride[0], x.stride[1]};
}

template <class Word>
void multiply_words(const Output& y, const Output& panels, const Input& added, const Input& a, const Input& b) {
  using T = typename Word::number;
  const int64_t inner = a.size[1], words = pieces(inner, Word::count), most = pieces(words, pieces(words, kDepth));
  const Product<Word> product{matrix<T>(a), matrix<T>(b), matrix<float>(added), matrix<float>(y), static_cast<float*>(panels.data),
                              y.size[0],    y.size[1],    inner,                most};
  product.run(panels.size[0] / (most * kWidth));
}

}  // namespace

void multiply(Output y, Output panels, Input added, Input a, Input b) {
  (a.dtype == Dtype::bfloat16 ? multiply_words<Pair> : multiply_words<Single>)(y, panels, added, a, b);
}

}  // namespace pylayers::cpu::PYLAYERS_ISA
