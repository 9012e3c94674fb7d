// Norms of x + residual, where the residual and the sum may be kept in float32 beside 16-bit numbers.
#pragma once

#include "norm_launch.cuh"

namespace pylayers::cuda {

// body(Access) for 16-bit numbers beside float32 ones: four at a time, 16 bytes of float32, where rows allow it.
template <class Body>
void dispatch_mixed(int bytes_of_16_bit, int bytes_of_float, const Body& body) {
  if (bytes_of_16_bit >= 8 && bytes_of_float >= 16) return body(Access<float, 4>{});
  body(Access<float, 1>{});
}

template <class Body>
void with_16_bit(Dtype dtype, const Body& body) {
  dtype == Dtype::float16 ? body(__half{}) : body(__nv_bfloat16{});
}

template <template <class, class, class> class Norm>
void add_norm_forward(const char* name, Stream stream, const NormForward& on) {
  const auto own = on.x.dtype;
  if (on.residual.dtype == own && on.total.dtype == own) {
    const int bytes = access_bytes(on.y, on.total, on.x, on.residual, on.weight, on.bias);
    return dispatch(own, bytes, [&](auto access) {
      using scalar_t = typename decltype(access)::scalar_t;
      launch_norm_forward<Norm<scalar_t, scalar_t, scalar_t>>(name, access, stream, on);
    });
  }
  const bool wide_residual = on.residual.dtype != own, wide_total = on.total.dtype != own;
  const auto if_wide = [](bool wide, const auto& view, bool wanted) {
    return wide == wanted ? view : std::decay_t<decltype(view)>{};
  };
  const int narrow = access_bytes(on.y, on.x, on.weight, on.bias, if_wide(wide_residual, on.residual, false),
                                  if_wide(wide_total, on.total, false));
  const int wide = access_bytes(if_wide(wide_residual, on.residual, true), if_wide(wide_total, on.total, true));
  with_16_bit(own, [&](auto type) {
    using scalar_t = decltype(type);
    dispatch_mixed(narrow, wide, [&](auto access) {
      if (!wide_total) return launch_norm_forward<Norm<scalar_t, float, scalar_t>>(name, access, stream, on);
      if (wide_residual) return launch_norm_forward<Norm<scalar_t, float, float>>(name, access, stream, on);
      launch_norm_forward<Norm<scalar_t, scalar_t, float>>(name, access, stream, on);
    });
  });
}

template <template <class, class, class> class Norm>
void add_norm_backward(const char* name, Stream stream, const NormBackward& on) {
  const auto own = on.grad.dtype;
  if (on.x.dtype == own) {
    const int bytes = access_bytes(on.dx, on.dresidual, on.partial, on.grad, on.dtotal, on.x, on.weight);
    return dispatch(own, bytes, [&](auto access) {
      using scalar_t = typename decltype(access)::scalar_t;
      launch_norm_backward<Norm<scalar_t, scalar_t, scalar_t>>(name, access, stream, on);
    });
  }
  with_16_bit(own, [&](auto type) {
    using scalar_t = decltype(type);
    dispatch_mixed(access_bytes(on.dx, on.grad, on.weight), access_bytes(on.dresidual, on.partial, on.dtotal, on.x),
                   [&](auto access) { launch_norm_backward<Norm<scalar_t, float, float>>(name, access, stream, on); });
  });
}

}  // namespace pylayers::cuda
