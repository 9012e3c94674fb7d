// y = activation(scale · (product + bias)), and its backward: the activation gradient and the bias gradient in one pass.
//
// The matrix product is the library's. Here every element is read and written once; the bias gradient is summed per part of the
// rows, then over the parts in order.
#include "math.h"
#include "rows.h"

namespace pylayers::cpu::PYLAYERS_ISA {
namespace {

template <class Body>
void with_any(int64_t activation, const Body& body) {
  with_activation<Activation::none, Activation::relu, Activation::gelu, Activation::gelu_tanh, Activation::silu, Activation::tanh,
                  Activation::sigmoid>(activation, body);
}

template <class scalar_t, Activation activation>
void forward(Output y, Input product, Input bias, double scale) {
  using acc_t = accumulation_t<scalar_t>;
  const auto factor = acc_t(scale);
  const auto* b = static_cast<const scalar_t*>(bias.data);
  const auto one_row = [&](int64_t row, int64_t begin, int64_t end) {
    const scalar_t* from = row_of<scalar_t>(product, row) + begin;
    scalar_t* to = row_of<scalar_t>(y, row) + begin;
    for_vectors<kLanes<acc_t>>(end - begin, [&](int64_t col, auto count) {
      auto x = load(from + col, count);
      if (b) x += load(b + begin + col, count);
      store(to + col, activate<activation>(x * factor), count);
    });
  };
  for_tiles(y.rows(), y.dim(), one_row);
}

template <class scalar_t, Activation activation>
void backward(Output dproduct, Output dbias, Output partial, Input grad, Input saved, Input bias, double scale) {
  using acc_t = accumulation_t<scalar_t>;
  const auto factor = acc_t(scale);
  const int64_t rows = grad.rows(), dim = grad.dim();
  const auto* b = static_cast<const scalar_t*>(bias.data);
  const auto one_row = [&](acc_t* sum, int64_t row) {
    const scalar_t *g = row_of<scalar_t>(grad, row), *from = row_of<scalar_t>(saved, row);
    scalar_t* to = row_of<scalar_t>(dproduct, row);
    for_vectors<kLanes<acc_t>>(dim, [&](int64_t col, auto count) {
      auto x = load(from + col, count);
      if (b && !derivative_from_output(activation)) x += load(b + col, count);
      if (!derivative_from_output(activation)) x *= factor;
      const auto d = load(g + col, count) * factor * derivative<activation>(x);
      store(to + col, d, count);
      if (sum) store(sum + col, load(sum + col, count) + d, count);
    });
  };
  const auto range = [&](acc_t* sum, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) one_row(sum, row);
  };
  if (dbias) return sum_over_rows<scalar_t>(dbias, partial, rows, range);
  parallel_for(rows, kGrain / dim + 1, [&](int64_t begin, int64_t end) { range(nullptr, begin, end); });
}

}  // namespace

void linear_epilogue_forward(Output y, Input product, Input bias, double scale, int64_t activation) {
  dispatch(y.dtype, [&](auto type) {
    with_any(activation, [&](auto kind) { forward<decltype(type), decltype(kind)::value>(y, product, bias, scale); });
  });
}

void linear_epilogue_backward(Output dproduct, Output dbias, Output partial, Input grad, Input saved, Input bias,
                              double scale, int64_t activation) {
  dispatch(dproduct.dtype, [&](auto type) {
    with_any(activation, [&](auto kind) {
      backward<decltype(type), decltype(kind)::value>(dproduct, dbias, partial, grad, saved, bias, scale);
    });
  });
}

}  // namespace pylayers::cpu::PYLAYERS_ISA
