// Losses of single numbers, and their sum; and their gradients by input and target.
//
// Forward reads every number once and writes it, or a sum for each share of them; backward reads them once more. Nothing is kept between
// the two. Shares are of a fixed size, so that sums do not depend on the number of threads.
#include "../pointwise_loss.h"
#include "math.h"
#include "rows.h"

namespace pylayers::cpu::PYLAYERS_ISA {
namespace {

// What a loss is made of, of one vector: t the target, p the weight of what is to be 1.
template <PointwiseLoss kind, class V>
struct Loss {
  V x, t, p;

  V value() const {
    if constexpr (kind == PointwiseLoss::squares) return (x - t) * (x - t);
    if constexpr (kind == PointwiseLoss::logits) {
      const V from_above = (1 - t) * x, from_below = -(p * t * x);  // without what cancels
      return (x < 0 ? from_below : from_above) + (1 + (p - 1) * t) * log_of_one_and(exp(-magnitude(x)));
    }
    if constexpr (kind == PointwiseLoss::probabilities) return t == 0 ? V{} : t * (log(t) - x);
    if constexpr (kind == PointwiseLoss::log_probabilities) return exp_or_zero(t) * (t - x);
  }
  V by_input() const {
    if constexpr (kind == PointwiseLoss::squares) return 2 * (x - t);
    if constexpr (kind == PointwiseLoss::logits) {
      const V e = exp(-magnitude(x)), near = 1 / (1 + e), far = e * near;  // σ(|x|), σ(−|x|)
      return (1 - t) * (x < 0 ? far : near) - p * t * (x < 0 ? near : far);
    }
    if constexpr (kind == PointwiseLoss::probabilities) return -t;
    if constexpr (kind == PointwiseLoss::log_probabilities) return -exp_or_zero(t);
  }
  V by_target() const {
    if constexpr (kind == PointwiseLoss::squares) return -2 * (x - t);
    if constexpr (kind == PointwiseLoss::logits) return (x < 0 ? -p : splat(element_t<V>(-1))) * x + (p - 1) * log_of_one_and(exp(-magnitude(x)));
    if constexpr (kind == PointwiseLoss::probabilities) return log(t) + 1 - x;
    if constexpr (kind == PointwiseLoss::log_probabilities) return exp_or_zero(t) * (t - x + 1);
  }
};

// Rows of what a call is given; where all of it is contiguous, one long row.
template <class scalar_t>
struct Call {
  Input x, target, weight, pos_weight;
  int64_t rows, dim;

  template <class... Views>
  Call(Input x, Input target, Input weight, Input pos_weight, const Views&... others)
      : x(x), target(target), weight(weight), pos_weight(pos_weight), rows(x.rows()), dim(x.dim()) {
    const auto flat = [](const Input& view) { return !view || is_flat(view); };
    if (flat(x) && flat(target) && flat(weight) && flat(pos_weight) && (flat(others) && ...)) rows = 1, dim = x.rows() * x.dim();
  }

  // The terms of a row from column `begin` on: f(col, count), and the weight of a column, of which there is none by default.
  template <PointwiseLoss kind>
  auto terms(int64_t row, int64_t begin) const {
    using acc_t = accumulation_t<scalar_t>;
    const auto at = [&](const Input& matrix) { return matrix ? row_of<scalar_t>(matrix, row) + begin : nullptr; };
    return [x = at(x), t = at(target), p = at(pos_weight)](int64_t col, auto count) {
      return Loss<kind, Vector<acc_t>>{load(x + col, count), load(t + col, count), p ? load(p + col, count) : splat(acc_t(1))};
    };
  }
  auto weights(int64_t row, int64_t begin) const {
    const scalar_t* const w = weight ? row_of<scalar_t>(weight, row) + begin : nullptr;
    return [w](int64_t col, auto count, auto value) { return w ? value * load(w + col, count) : value; };
  }
};

template <class scalar_t, PointwiseLoss kind>
void each(const Output& loss, const Call<scalar_t>& call) {
  using acc_t = accumulation_t<scalar_t>;
  for_tiles(call.rows, call.dim, [&](int64_t row, int64_t begin, int64_t end) {
    const auto term = call.template terms<kind>(row, begin);
    const auto weigh = call.weights(row, begin);
    scalar_t* const to = static_cast<scalar_t*>(loss.data) + row * call.dim + begin;
    if_streamed(can_stream<scalar_t>(loss), [&](auto streamed) {
      for_vectors<kLanes<acc_t>>(end - begin, [&](int64_t col, auto count) { put(to + col, weigh(col, count, term(col, count).value()), count, streamed); });
    });
  });
}

// A share of the numbers for each part, whatever rows they are in.
template <class scalar_t, PointwiseLoss kind>
void sum(const Output& loss, const Output& partial, const Call<scalar_t>& call, double size) {
  using acc_t = accumulation_t<scalar_t>;
  const int64_t count = call.rows * call.dim, parts = partial.rows();
  acc_t* const sums = static_cast<acc_t*>(partial.data);
  parallel_for(parts, kGrain * parts / count + 1, [&](int64_t first, int64_t last) {
    for (int64_t part = first; part < last; ++part) {
      const int64_t end = count * (part + 1) / parts;
      double own = 0;  // of as many as there may be rows
      for (int64_t at = count * part / parts; at < end;) {
        const int64_t row = at / call.dim, begin = at % call.dim, some = std::min(end - at, call.dim - begin);
        const auto term = call.template terms<kind>(row, begin);
        const auto weigh = call.weights(row, begin);
        own += row_sum<acc_t>(some, [&](int64_t col, auto lanes) { return first_lanes(weigh(col, lanes, term(col, lanes).value()), lanes); });
        at += some;
      }
      sums[part] = static_cast<acc_t>(own);
    }
  });
  double total = 0;
  for (int64_t part = 0; part < parts; ++part) total += sums[part];
  store(static_cast<scalar_t*>(loss.data), splat(static_cast<acc_t>(total / size)), 1);
}

template <class scalar_t, PointwiseLoss kind, bool of_input, bool of_target>
void gradients(const Output& dx, const Output& dtarget, const Input& grad, const Call<scalar_t>& call, double size) {
  using acc_t = accumulation_t<scalar_t>;
  const bool one = grad.dims == 1;
  const acc_t factor = static_cast<acc_t>((one ? load(static_cast<const scalar_t*>(grad.data), 1)[0] : 1) / size);
  for_tiles(call.rows, call.dim, [&](int64_t row, int64_t begin, int64_t end) {
    const auto term = call.template terms<kind>(row, begin);
    const auto weigh = call.weights(row, begin);
    const scalar_t* const incoming = one ? nullptr : row_of<scalar_t>(grad, row) + begin;
    const int64_t place = row * call.dim + begin;
    for_vectors<kLanes<acc_t>>(end - begin, [&](int64_t col, auto count) {
      const auto g = weigh(col, count, incoming ? load(incoming + col, count) * factor : splat(factor));
      const auto at = term(col, count);
      if constexpr (of_input) store(static_cast<scalar_t*>(dx.data) + place + col, g * at.by_input(), count);
      if constexpr (of_target) store(static_cast<scalar_t*>(dtarget.data) + place + col, g * at.by_target(), count);
    });
  });
}

}  // namespace

void pointwise_loss_forward(Output loss, Output partial, Input x, Input target, Input weight, Input pos_weight, int64_t kind, int64_t size) {
  dispatch(x.dtype, [&](auto type) {
    using scalar_t = decltype(type);
    const Call<scalar_t> call(x, target, weight, pos_weight);
    with_loss(kind, [&](auto which) {
      if (partial) sum<scalar_t, which>(loss, partial, call, static_cast<double>(size));
      else each<scalar_t, which>(loss, call);
    });
  });
}

void pointwise_loss_backward(Output dx, Output dtarget, Input grad, Input x, Input target, Input weight, Input pos_weight, int64_t kind,
                             int64_t size) {
  dispatch(x.dtype, [&](auto type) {
    using scalar_t = decltype(type);
    const Call<scalar_t> call(x, target, weight, pos_weight, grad.dims == 1 ? Input() : grad);
    with_loss(kind, [&](auto which) {
      if (dx && dtarget) gradients<scalar_t, which, true, true>(dx, dtarget, grad, call, static_cast<double>(size));
      else if (dx) gradients<scalar_t, which, true, false>(dx, dtarget, grad, call, static_cast<double>(size));
      else gradients<scalar_t, which, false, true>(dx, dtarget, grad, call, static_cast<double>(size));
    });
  });
}

}  // namespace pylayers::cpu::PYLAYERS_ISA
