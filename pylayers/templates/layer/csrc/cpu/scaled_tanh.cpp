// y = weight · tanh(x) + bias, and its gradients. Threads share the rows; sums over rows are taken part by part, then over
// the parts in order. Every element is read and written once.
#include <cpu/math.h>
#include <cpu/rows.h>

namespace pylayers::cpu::PYLAYERS_ISA {
namespace {

template <class scalar_t>
void forward(Output y, Input x, Input weight, Input bias) {
  using acc_t = accumulation_t<scalar_t>;
  const int64_t dim = x.dim();
  const auto *w = static_cast<const scalar_t*>(weight.data), *b = static_cast<const scalar_t*>(bias.data);
  parallel_for(x.rows(), kGrain / dim + 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const scalar_t* from = row_of<scalar_t>(x, row);
      scalar_t* to = row_of<scalar_t>(y, row);
      for_vectors<kLanes<acc_t>>(dim, [&](int64_t col, auto count) {
        store(to + col, load(w + col, count) * tanh(load(from + col, count)) + load(b + col, count), count);
      });
    }
  });
}

template <class acc_t, class V, class Count>
void add_to(acc_t* sum, V v, Count count) {
  store(sum, load(sum, count) + v, count);
}

template <class scalar_t>
struct Backward {
  using acc_t = accumulation_t<scalar_t>;
  Output dx;
  Input grad, x;
  const scalar_t* weight;

  // The rows [begin, end): writes dx, adds to the dim sums of dweight and dbias. What is null is not asked for.
  void operator()(acc_t* sum_weight, acc_t* sum_bias, int64_t begin, int64_t end) const {
    for (int64_t row = begin; row < end; ++row) {
      const scalar_t *g = row_of<scalar_t>(grad, row), *from = row_of<scalar_t>(x, row);
      scalar_t* to = dx ? row_of<scalar_t>(dx, row) : nullptr;
      for_vectors<kLanes<acc_t>>(x.dim(), [&](int64_t col, auto count) {
        const auto incoming = load(g + col, count), t = tanh(load(from + col, count));
        if (to) store(to + col, incoming * load(weight + col, count) * (1 - t * t), count);
        if (sum_weight) add_to(sum_weight + col, incoming * t, count);
        if (sum_bias) add_to(sum_bias + col, incoming, count);
      });
    }
  }
};

template <class scalar_t>
void backward(Output dx, Output dweight, Output dbias, Output partial_weight, Output partial_bias, Input grad, Input x, Input weight) {
  using acc_t = accumulation_t<scalar_t>;
  const int64_t rows = x.rows(), dim = x.dim();
  const Backward<scalar_t> range{dx, grad, x, static_cast<const scalar_t*>(weight.data)};
  if (!dweight && !dbias) {
    parallel_for(rows, kGrain / dim + 1, [&](int64_t begin, int64_t end) { range(nullptr, nullptr, begin, end); });
    return;
  }
  // The number of parts depends on the sizes alone, and so do the bits.
  const int64_t parts = dweight ? partial_weight.rows() : partial_bias.rows();
  const auto zeros = [&](const Output& partial, int64_t part) -> acc_t* {
    if (!partial) return nullptr;
    acc_t* sum = row_of<acc_t>(partial, part);
    std::fill(sum, sum + dim, acc_t(0));
    return sum;
  };
  parallel_for(parts, kGrain * parts / (rows * dim) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part)
      range(zeros(partial_weight, part), zeros(partial_bias, part), rows * part / parts, rows * (part + 1) / parts);
  });
  if (dweight) add_parts<scalar_t>(dweight, partial_weight);
  if (dbias) add_parts<scalar_t>(dbias, partial_bias);
}

}  // namespace

void scaled_tanh_forward(Output y, Input x, Input weight, Input bias) {
  dispatch(x.dtype, [&](auto type) { forward<decltype(type)>(y, x, weight, bias); });
}

void scaled_tanh_backward(Output dx, Output dweight, Output dbias, Output partial_weight, Output partial_bias, Input grad, Input x,
                          Input weight) {
  dispatch(x.dtype, [&](auto type) {
    backward<decltype(type)>(dx, dweight, dbias, partial_weight, partial_bias, grad, x, weight);
  });
}

}  // namespace pylayers::cpu::PYLAYERS_ISA
