// From views to a launch: dtype and access width become template arguments, a failed launch an exception.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <climits>
#include <stdexcept>
#include <string>
#include <utility>

#include "../../kernels.h"
#include "vector.cuh"

namespace pylayers::cuda {

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

constexpr int power_of_two_from(int64_t value) {
  int power = 1;
  while (power < value) power *= 2;
  return power;
}

constexpr int power_of_two_up_to(int64_t value) { return power_of_two_from(value / 2 + 1); }

template <class T, class View>
T* data(const View& view) {
  return static_cast<T*>(view.data);
}

// The widest access, in bytes up to 16, at which every row of every given view starts and ends.
template <class... Views>
int access_bytes(const Views&... views) {
  uintptr_t bits = 16;
  const auto add = [&bits](const auto& view) {
    if (!view) return;
    const int64_t bytes = bytes_of(view.dtype);
    bits |= reinterpret_cast<uintptr_t>(view.data) | uintptr_t(view.dim() * bytes);
    if (view.dims > 1 && view.rows() > 1) bits |= uintptr_t(view.stride[0] * bytes);
  };
  (add(views), ...);
  return int(bits & -bits);
}

// Makes one row of matrices of one shape whose rows all follow each other without a gap. Left out ones are in no way.
template <class First, class... Views>
void flatten(First& first, Views&... views) {
  const int64_t rows = first.rows(), dim = first.dim();
  if (rows > 1 && (first.stride[0] != dim || ((views && views.stride[0] != dim) || ...))) return;
  const auto join = [&](auto& view) {
    view.size[0] = 1;
    view.size[1] = view.stride[0] = rows * dim;
  };
  join(first);
  (join(views), ...);
}

template <class scalar, int access_width>
struct Access {
  using scalar_t = scalar;
  static constexpr int width = access_width;
  static constexpr int bytes = access_width * sizeof(scalar);
};

template <class scalar_t, class Body>
void dispatch_16_bit(int bytes, const Body& body) {
  if (bytes >= 16) return body(Access<scalar_t, 8>{});
  bytes >= 4 ? body(Access<scalar_t, 2>{}) : body(Access<scalar_t, 1>{});
}

// body(Access<scalar_t, width>{}) for the dtype and the widest access of at most `bytes` that kernels are built for.
// float64 is there for checking: one width keeps the build short.
template <class Body>
void dispatch(Dtype dtype, int bytes, const Body& body) {
  switch (dtype) {
    case Dtype::float64: return body(Access<double, 1>{});
    case Dtype::float32: return bytes >= 16 ? body(Access<float, 4>{}) : body(Access<float, 1>{});
    case Dtype::float16: return dispatch_16_bit<__half>(bytes, body);
    case Dtype::bfloat16: return dispatch_16_bit<__nv_bfloat16>(bytes, body);
    case Dtype::int64: return;
  }
}

// body(std::integral_constant<int, value>{}) for the one of the options that equals value.
template <int... options, class Body>
void dispatch_int(std::integer_sequence<int, options...>, int value, const Body& body) {
  ((value == options ? body(std::integral_constant<int, options>{}) : void()), ...);
}

[[noreturn]] inline void fail(const char* name, const char* why) {
  throw std::runtime_error(std::string(name) + ": " + why);
}

template <class... Params, class... Args>
void launch(const char* name, void (*kernel)(Params...), int64_t blocks, dim3 threads, size_t shared_bytes,
            Stream stream, const Args&... args) {
  if (blocks > INT_MAX) fail(name, "too many blocks for one launch");
  kernel<<<dim3(unsigned(blocks)), threads, shared_bytes, stream>>>(args...);
  const cudaError_t status = cudaGetLastError();
  if (status != cudaSuccess) fail(name, cudaGetErrorString(status));
}

}  // namespace pylayers::cuda
