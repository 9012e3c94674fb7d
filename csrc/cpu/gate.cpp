// y = activation(gate) · up, and its backward, which computes the activation again from gate. Every element is read and written
// once. Without up the gate takes its place.
#include "math.h"
#include "rows.h"

namespace pylayers::cpu::PYLAYERS_ISA {
namespace {

// Contiguous matrices are walked as one long row.
struct Shape {
  int64_t rows, dim;
  template <class... Views>
  explicit Shape(const Input& gate, const Views&... others) : rows(gate.rows()), dim(gate.dim()) {
    if (is_flat(gate) && ((!others || is_flat(others)) && ...)) dim *= rows, rows = 1;
  }
};

template <class Body>
void with_gate(int64_t activation, const Body& body) {
  with_activation<Activation::relu, Activation::gelu, Activation::gelu_tanh, Activation::silu>(activation, body);
}

template <class scalar_t, Activation activation>
void forward(Output y, Input gate, Input up) {
  using acc_t = accumulation_t<scalar_t>;
  const Shape shape(gate, y, up);
  const bool past_caches = can_stream<scalar_t>(y);
  for_tiles(shape.rows, shape.dim, [&](int64_t row, int64_t begin, int64_t end) {
    const scalar_t *a = row_of<scalar_t>(gate, row) + begin, *b = row_of<scalar_t>(up ? up : gate, row) + begin;
    scalar_t* to = row_of<scalar_t>(y, row) + begin;
    if_streamed(past_caches, [&](auto streamed) {
      for_vectors<kLanes<acc_t>>(end - begin, [&](int64_t col, auto count) {
        put(to + col, activate<activation>(load(a + col, count)) * load(b + col, count), count, streamed);
      });
    });
  });
}

// usual: up is there and both gradients are asked for, so that nothing is left to ask in the loop.
template <class scalar_t, Activation activation, bool usual>
void backward(Output dgate, Output dup, Input grad, Input gate, Input up) {
  using acc_t = accumulation_t<scalar_t>;
  const Shape shape(gate, dgate, dup, grad, up);
  const bool past_caches = !usual && !(dgate && dup) && can_stream<scalar_t>(dgate ? dgate : dup);
  for_tiles(shape.rows, shape.dim, [&](int64_t row, int64_t begin, int64_t end) {
    const scalar_t *g = row_of<scalar_t>(grad, row) + begin, *a = row_of<scalar_t>(gate, row) + begin;
    const scalar_t* b = row_of<scalar_t>(up ? up : gate, row) + begin;
    scalar_t* to_gate = dgate ? row_of<scalar_t>(dgate, row) + begin : nullptr;
    scalar_t* to_up = dup ? row_of<scalar_t>(dup, row) + begin : nullptr;
    const bool alone = !usual && !up;
    const auto columns = [&](auto streamed) {
      for_vectors<kLanes<acc_t>>(end - begin, [&](int64_t col, auto count) {
        const auto x = load(a + col, count), incoming = load(g + col, count);
        const auto open = incoming * activate<activation>(x);
        if (usual || to_gate) {
          const auto d = incoming * load(b + col, count) * derivative<activation>(x);
          put(to_gate + col, alone ? d + open : d, count, streamed);
        }
        if (usual || to_up) put(to_up + col, open, count, streamed);
      });
    };
    if constexpr (usual) columns(std::false_type());
    else if_streamed(past_caches, columns);
  });
}

}  // namespace

void gate_forward(Output y, Input gate, Input up, int64_t activation) {
  dispatch(gate.dtype, [&](auto type) {
    with_gate(activation, [&](auto kind) { forward<decltype(type), decltype(kind)::value>(y, gate, up); });
  });
}

void gate_backward(Output dgate, Output dup, Input grad, Input gate, Input up, int64_t activation) {
  dispatch(gate.dtype, [&](auto type) {
    with_gate(activation, [&](auto kind) {
      using scalar_t = decltype(type);
      constexpr Activation function = decltype(kind)::value;
      (up && dgate && dup ? backward<scalar_t, function, true> : backward<scalar_t, function, false>)(dgate, dup, grad, gate, up);
    });
  });
}

}  // namespace pylayers::cpu::PYLAYERS_ISA
