// What a kernel sees of a tensor: pointer, dtype, sizes, strides. No torch header, so that kernels compile in a second.
#pragma once

#include <cstdint>

#define PYLAYERS_API __attribute__((visibility("default")))  // for packages with kernels of their own too

namespace pylayers {

enum class Dtype : int8_t { float64, float32, float16, bfloat16, int64 };  // int64: positions, never computed in
constexpr int bytes_of(Dtype dtype) { return dtype == Dtype::float64 || dtype == Dtype::int64 ? 8 : dtype == Dtype::float32 ? 4 : 2; }

inline constexpr int kMaxDims = 4;

template <class Pointer>
struct View {
  Pointer data = nullptr;
  Dtype dtype = Dtype::float32;
  int dims = 0;
  int64_t size[kMaxDims] = {};
  int64_t stride[kMaxDims] = {};  // in elements; the last one is 1

  // False for an optional argument that was not given.
  explicit operator bool() const { return data != nullptr; }
  int64_t rows() const { return size[0]; }
  int64_t dim() const { return size[dims - 1]; }
};

using Output = View<void*>;
using Input = View<const void*>;

}  // namespace pylayers
