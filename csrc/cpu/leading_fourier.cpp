// The half spectrum for the backward of leading_fourier: the gradient scaled, halved where a coefficient stands for two, and
// zeros behind it. Threads share the rows; every number is read and written once.
#include <algorithm>

#include "rows.h"

namespace pylayers::cpu::PYLAYERS_ISA {
namespace {

template <class scalar_t>
void backward(Output dspectrum, Input grad, scalar_t scale, int64_t samples) {
  const int64_t given = grad.dim(), dim = dspectrum.dim();
  const bool ends_real = samples % 2 == 0 && given == dim;  // coefficient samples / 2 is there
  const scalar_t half = scale / 2;
  parallel_for(grad.rows(), kGrain / dim + 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const scalar_t* from = row_of<scalar_t>(grad, row);
      scalar_t* to = row_of<scalar_t>(dspectrum, row);
      for_vectors<kLanes<scalar_t>>(given, [&](int64_t col, auto count) { store(to + col, load(from + col, count) * half, count); });
      std::fill(to + given, to + dim, scalar_t(0));
      const auto write_real = [&](int64_t col) { to[col] = from[col] * scale, to[col + 1] = 0; };
      write_real(0);
      if (ends_real) write_real(dim - 2);
    }
  });
}

}  // namespace

void leading_fourier_backward(Output dspectrum, Input grad, double scale, int64_t samples) {
  if (grad.dtype == Dtype::float64) return backward<double>(dspectrum, grad, scale, samples);
  backward<float>(dspectrum, grad, float(scale), samples);
}

}  // namespace pylayers::cpu::PYLAYERS_ISA
