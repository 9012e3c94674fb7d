// loss = Σ_c q_c · w_c · (lse − z_c) + z_loss · lse² of logits z, and its gradient by the logits.
//
// Threads share the rows. For the loss a row is read from memory once, piece by piece with a running maximum; the later passes over a
// piece find it in the caches. The gradient is one pass, with the exponentials taken again: they cost less than memory for them.
#include "../cross_entropy.h"
#include "softmax.h"

namespace pylayers::cpu::PYLAYERS_ISA {
namespace {

struct Call {
  Input x, target, soft, weight;
  int64_t ignore_index;
  double smoothing, z_loss, softcap;
};

// Logits as they are, or capped; and the derivative by what they were.
template <class scalar_t, bool capped>
struct Logits {
  using acc_t = accumulation_t<scalar_t>;
  using V = Vector<acc_t>;
  const scalar_t* from;
  acc_t cap, inverse;

  Logits(const Call& call, int64_t row)
      : from(row_of<scalar_t>(call.x, row)), cap(static_cast<acc_t>(call.softcap)), inverse(capped ? 1 / cap : 0) {}

  template <class Count>
  V operator()(int64_t col, Count count) const {
    const V x = load(from + col, count);
    if constexpr (capped) return cap * tanh(x * inverse);
    return x;
  }
  V with_slope(V gradient, V z) const {
    if constexpr (capped) return gradient * (1 - z * inverse * (z * inverse));
    return gradient;
  }
};

// What of a row's probability belongs to a column beside the target class, times the weight of the column.
template <class scalar_t, Labels labels>
struct Shares {
  using acc_t = accumulation_t<scalar_t>;
  const scalar_t *soft, *weight;
  acc_t keep, each;

  Shares(const Call& call, int64_t row)
      : soft(labels == Labels::probabilities ? row_of<scalar_t>(call.soft, row) : nullptr),
        weight(static_cast<const scalar_t*>(call.weight.data)), keep(static_cast<acc_t>(1 - call.smoothing)),
        each(static_cast<acc_t>(call.smoothing / static_cast<double>(call.x.dim()))) {}

  template <class Count>
  Vector<acc_t> operator()(int64_t col, Count count) const {
    auto q = splat(each);
    if constexpr (labels == Labels::probabilities) q += load(soft + col, count) * keep;
    return weight ? q * load(weight + col, count) : q;
  }
};

template <class acc_t>
struct Found {
  acc_t loss = 0, top = 0, scale = 0, share = 0;
};

template <class scalar_t, Labels labels, bool capped>
Found<accumulation_t<scalar_t>> loss_of(const Call& call, int64_t row, int64_t target) {
  using acc_t = accumulation_t<scalar_t>;
  const Logits<scalar_t, capped> z(call, row);
  const Shares<scalar_t, labels> shares(call, row);
  const int64_t dim = call.x.dim();
  const auto found = normaliser<acc_t>(dim, z, nullptr);
  const acc_t log_total = std::log(found.total), lse = found.shift + log_total;
  Found<acc_t> result{0, found.shift, 0, 1};
  if constexpr (labels != Labels::probabilities) {
    if (call.weight) result.share = load(shares.weight + target, 1)[0];
    result.scale = shares.keep * result.share;
    result.loss = result.scale * (log_total - (z(target, 1)[0] - found.shift));
  }
  if constexpr (labels != Labels::classes) {
    result.loss += row_sum<acc_t>(dim, [&](int64_t col, auto count) {
      return first_lanes(shares(col, count) * (log_total - (z(col, count) - found.shift)), count);
    });
    result.scale += row_sum<acc_t>(dim, [&](int64_t col, auto count) { return first_lanes(shares(col, count), count); });
  }
  const acc_t z_loss = static_cast<acc_t>(call.z_loss);
  result.loss += z_loss * lse * lse;
  result.scale = (result.scale + 2 * z_loss * lse) / found.total;
  return result;
}

template <class scalar_t, Labels labels, bool capped, class acc_t, class Streamed>
void gradient_of(scalar_t* to, const Call& call, int64_t row, int64_t target, acc_t grad, const Found<acc_t>& found, Streamed streamed) {
  const Logits<scalar_t, capped> z(call, row);
  const Shares<scalar_t, labels> shares(call, row);
  const int64_t dim = call.x.dim();
  const acc_t scale = grad * found.scale;
  const auto term = [&](int64_t col, auto count) {
    const auto at = z(col, count);
    auto d = exp_or_zero(at - found.top) * scale;
    if constexpr (labels != Labels::classes) d -= grad * shares(col, count);
    return std::make_pair(d, at);
  };
  const auto whole = [&](int64_t col, auto count) {
    const auto [d, at] = term(col, count);
    return z.with_slope(d, at);
  };
  if constexpr (labels == Labels::probabilities) return write_row<acc_t>(to, dim, dim, whole, streamed);
  const auto [d, at] = term(target, 1);  // first: dx may be the memory of x
  write_row<acc_t>(to, dim, dim, whole, streamed);
  store(to + target, z.with_slope(d - grad * (shares.keep * found.share), at), 1);
}

// body(row, target, kind, streamed) for all rows; `written`, if any, is what they write from its beginning to its end.
template <class scalar_t, class Body>
void for_rows(const Call& call, const Output& written, const Body& body) {
  const auto* targets = static_cast<const int64_t*>(call.target.data);
  const auto kind = [&](int64_t t) {
    if (t == call.ignore_index) return RowKind::ignored;
    return t >= 0 && t < call.x.dim() ? RowKind::counted : RowKind::wrong;
  };
  parallel_for(call.x.rows(), kGrain / call.x.dim() + 1, [&](int64_t begin, int64_t end) {
    if_streamed(can_stream<scalar_t>(written), [&](auto streamed) {
      for (int64_t row = begin; row < end; ++row) {
        if (targets) body(row, targets[row], kind(targets[row]), streamed);
        else body(row, 0, RowKind::counted, streamed);
      }
    });
  });
}

template <class acc_t>
void put(const Output& vector, int64_t row, acc_t value) {
  static_cast<acc_t*>(vector.data)[row] = value;
}
template <class acc_t>
acc_t get(const Input& vector, int64_t row) {
  return static_cast<const acc_t*>(vector.data)[row * vector.stride[0]];
}

}  // namespace

void cross_entropy_forward(Output loss, Output top, Output scale, Output share, Input x, Input target, Input soft, Input weight,
                           int64_t ignore_index, double smoothing, double z_loss, double softcap) {
  const Call call{x, target, soft, weight, ignore_index, smoothing, z_loss, softcap};
  dispatch(x.dtype, [&](auto type) {
    with_labels(bool(soft), smoothing, softcap, [&](auto labels, auto capped) {
      using scalar_t = decltype(type);
      using acc_t = accumulation_t<scalar_t>;
      constexpr acc_t nan = std::numeric_limits<acc_t>::quiet_NaN();
      for_rows<scalar_t>(call, Output(), [&](int64_t row, int64_t t, RowKind kind, auto) {
        Found<acc_t> found;
        if (kind == RowKind::counted) found = loss_of<scalar_t, decltype(labels)::value, decltype(capped)::value>(call, row, t);
        if (kind == RowKind::wrong) found = {nan, nan, nan, nan};
        put(loss, row, found.loss);
        put(top, row, found.top);
        put(scale, row, found.scale);
        put(share, row, found.share);
      });
    });
  });
}

void cross_entropy_backward(Output dx, Input grad, Input x, Input target, Input soft, Input weight, Input top, Input scale, Input share,
                            int64_t ignore_index, double smoothing, double softcap) {
  const Call call{x, target, soft, weight, ignore_index, smoothing, 0, softcap};
  dispatch(x.dtype, [&](auto type) {
    with_labels(bool(soft), smoothing, softcap, [&](auto labels, auto capped) {
      using scalar_t = decltype(type);
      using acc_t = accumulation_t<scalar_t>;
      for_rows<scalar_t>(call, dx, [&](int64_t row, int64_t t, RowKind kind, auto streamed) {
        auto* to = row_of<scalar_t>(dx, row);
        if (kind == RowKind::counted) {
          const Found<acc_t> found{0, get<acc_t>(top, row), get<acc_t>(scale, row), get<acc_t>(share, row)};
          gradient_of<scalar_t, decltype(labels)::value, decltype(capped)::value>(to, call, row, t, get<acc_t>(grad, row), found, streamed);
        } else {
          const acc_t all = kind == RowKind::ignored ? 0 : std::numeric_limits<acc_t>::quiet_NaN();
          write_row<acc_t>(to, x.dim(), x.dim(), [all](int64_t, auto) { return splat(all); }, streamed);
        }
      });
    });
  });
}

}  // namespace pylayers::cpu::PYLAYERS_ISA
