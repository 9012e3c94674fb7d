// y = silu(gate) · up, and its backward, which computes silu again from gate. Every element is read and written once.
#include "math.h"
#include "rows.h"

namespace pylayers::cpu::PYLAYERS_ISA {
namespace {

// Contiguous matrices are walked as one long row.
struct Shape {
  int64_t rows, dim;
  template <class... Views>
  explicit Shape(const Output& y, const Views&... others) : rows(y.rows()), dim(y.dim()) {
    if (is_flat(y) && (is_flat(others) && ...)) dim *= rows, rows = 1;
  }
};

template <class scalar_t>
void forward(Output y, Input gate, Input up) {
  using acc_t = accumulation_t<scalar_t>;
  const Shape shape(y, gate, up);
  const bool past_caches = can_stream<scalar_t>(y);
  for_tiles(shape.rows, shape.dim, [&](int64_t row, int64_t begin, int64_t end) {
    const scalar_t *a = row_of<scalar_t>(gate, row) + begin, *b = row_of<scalar_t>(up, row) + begin;
    scalar_t* to = row_of<scalar_t>(y, row) + begin;
    if_streamed(past_caches, [&](auto streamed) {
      for_vectors<kLanes<acc_t>>(end - begin, [&](int64_t col, auto count) {
        put(to + col, activate<Activation::silu>(load(a + col, count)) * load(b + col, count), count, streamed);
      });
    });
  });
}

template <class scalar_t>
void backward(Output dgate, Output dup, Input grad, Input gate, Input up) {
  using acc_t = accumulation_t<scalar_t>;
  const Shape shape(dgate, dup, grad, gate, up);
  const bool past_caches = can_stream<scalar_t>(dgate) && can_stream<scalar_t>(dup);
  for_tiles(shape.rows, shape.dim, [&](int64_t row, int64_t begin, int64_t end) {
    const scalar_t* g = row_of<scalar_t>(grad, row) + begin;
    const scalar_t *a = row_of<scalar_t>(gate, row) + begin, *b = row_of<scalar_t>(up, row) + begin;
    scalar_t *to_gate = row_of<scalar_t>(dgate, row) + begin, *to_up = row_of<scalar_t>(dup, row) + begin;
    if_streamed(past_caches, [&](auto streamed) {
      for_vectors<kLanes<acc_t>>(end - begin, [&](int64_t col, auto count) {
        const auto x = load(a + col, count), incoming = load(g + col, count);
        const auto s = sigmoid(x);
        put(to_gate + col, incoming * load(b + col, count) * s * (1 + x * (1 - s)), count, streamed);
        put(to_up + col, incoming * x * s, count, streamed);
      });
    });
  });
}

}  // namespace

void swiglu_forward(Output y, Input gate, Input up) {
  dispatch(y.dtype, [&](auto type) { forward<decltype(type)>(y, gate, up); });
}

void swiglu_backward(Output dgate, Output dup, Input grad, Input gate, Input up) {
  dispatch(dgate.dtype, [&](auto type) { backward<decltype(type)>(dgate, dup, grad, gate, up); });
}

}  // namespace pylayers::cpu::PYLAYERS_ISA
