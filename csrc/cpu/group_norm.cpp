// y = activation((x − mean) · rstd · weight + bias), with the statistics of groups of neighbouring channels, and its backward.
//
// Where the channels come first a group is contiguous, and a thread takes whole groups: it is read from memory once for its
// statistics, and again, from the cache if it fits, when it is normalised. Backward sums each channel, then takes the means of
// the group from these sums; behind an activation the gradients before it are kept between the two, which costs less than to find
// them again. Channels that are last in memory: group_norm_last.h.
#include <memory>

#include "group_norm_last.h"

namespace pylayers::cpu::PYLAYERS_ISA {
namespace {

template <class scalar_t, Activation activation>
struct Forward {
  using acc_t = accumulation_t<scalar_t>;
  const GroupForward& args;
  const Sizes sizes;
  const bool points;  // one position: a group has a vector of weights

  template <class Streamed>
  void write_channels(const scalar_t* from, scalar_t* to, int64_t first, acc_t mean, acc_t rstd, Streamed streamed) const {
    for (int64_t c = first; c < first + sizes.each; ++c, from += sizes.positions, to += sizes.positions) {
      const acc_t scale = rstd * number<scalar_t>(args.weight, c, 1), bias = number<scalar_t>(args.bias, c, 0);
      const auto one = [=](auto x) { return activate<activation>((x - mean) * scale + bias); };
      for_columns<scalar_t>(sizes.positions, [&](int64_t col, auto count) { put(to + col, each(one, load(from + col, count)), count, streamed); });
    }
  }

  template <class Streamed>
  void write_points(const scalar_t* from, scalar_t* to, int64_t first, acc_t mean, acc_t rstd, Streamed streamed) const {
    const Scale<scalar_t> scale(args.weight, 0);
    const auto one = [=](auto x, auto w, auto b) { return activate<activation>((x - mean) * (rstd * w) + b); };
    for_columns<scalar_t>(sizes.each, [&](int64_t col, auto count) {
      const auto w = scale(first + col, count), b = args.bias ? load(data<scalar_t>(args.bias) + first + col, count) : decltype(w){};
      put(to + col, each(one, load(from + col, count), w, b), count, streamed);
    });
  }

  // A group of a few numbers, one by one.
  Moments<acc_t> few_moments(const scalar_t* from) const {
    Moments<acc_t> found;
    for (int64_t i = 0; i < sizes.group; ++i) found.mean += load(from + i, 1)[0];
    found.mean /= acc_t(sizes.group);
    for (int64_t i = 0; i < sizes.group; ++i) {
      const acc_t away = load(from + i, 1)[0] - found.mean;
      found.squares += away * away;
    }
    return found;
  }
  void write_few(const scalar_t* from, scalar_t* to, int64_t first, acc_t mean, acc_t rstd) const {
    for (int64_t i = 0; i < sizes.group; ++i) {
      const int64_t c = first + i / sizes.positions;
      const acc_t scale = rstd * number<scalar_t>(args.weight, c, 1), bias = number<scalar_t>(args.bias, c, 0);
      store(to + i, activate<activation>((load(from + i, 1) - mean) * scale + bias), 1);
    }
  }

  void run() const {
    const bool few = sizes.group < kLanes<acc_t>;
    const bool past_caches = can_stream<scalar_t>(as_rows(args.y, points ? sizes.each : sizes.positions));
    parallel_for(sizes.batch * sizes.groups, kGrain / sizes.group + 1, [&](int64_t begin, int64_t end) {
      if_streamed(past_caches, [&](auto streamed) {
        for (int64_t i = begin; i < end; ++i) {
          const int64_t group = i % sizes.groups;
          const scalar_t* from = data<scalar_t>(args.x) + i / sizes.groups * args.x.stride[0] + group * sizes.group;
          scalar_t* to = data<scalar_t>(args.y) + i * sizes.group;
          const auto found = few ? few_moments(from) : moments_of(from, sizes.group);
          const acc_t rstd = 1 / std::sqrt(found.squares / acc_t(sizes.group) + acc_t(args.eps));
          data<acc_t>(args.mean)[i] = found.mean;
          data<acc_t>(args.rstd)[i] = rstd;
          const int64_t first = group * sizes.each;
          if (few) write_few(from, to, first, found.mean, rstd);
          else if (points) write_points(from, to, first, found.mean, rstd, streamed);
          else write_channels(from, to, first, found.mean, rstd, streamed);
        }
      });
    });
  }
};

template <class scalar_t, Activation activation>
struct Backward {
  using acc_t = accumulation_t<scalar_t>;
  const GroupBackward& args;
  const Sizes sizes;

  struct Group {
    const scalar_t *grad, *x;
    acc_t mean, rstd;
  };

  Group group(int64_t i) const {
    const int64_t n = i / sizes.groups, at = i % sizes.groups * sizes.group;
    return {data<scalar_t>(args.grad) + n * args.grad.stride[0] + at, data<scalar_t>(args.x) + n * args.x.stride[0] + at,
            data<acc_t>(args.mean)[i], data<acc_t>(args.rstd)[i]};
  }

  // Keeps dz, if there is a place for it.
  template <class Keep>
  void find_sums(const Group& of, int64_t i, [[maybe_unused]] acc_t* kept, Keep) const {
    constexpr int64_t piece = 16 * kLanes<acc_t>, run = 16 * piece;  // the longer a sum, the more it rounds
    acc_t* const sums = data<acc_t>(args.partial) + i * sizes.each;
    const int64_t second = sizes.batch * sizes.channels, first = i % sizes.groups * sizes.each;
    for (int64_t c = 0; c < sizes.each; ++c) {
      const scalar_t *x = of.x + c * sizes.positions, *grad = of.grad + c * sizes.positions;
      const auto mean = splat(of.mean), scale = splat(of.rstd * number<scalar_t>(args.weight, first + c, 1));
      const auto bias = splat(number<scalar_t>(args.bias, first + c, 0));
      const auto before = [=](auto grad, auto x) { return gradient_before<activation>(grad, x - mean, scale, bias); };
      Vector<acc_t> products{}, total{};
      for (int64_t start = 0; start < sizes.positions; start += run) {
        Vector<acc_t> run_products{}, run_total{};
        for (int64_t begin = start; begin < std::min(start + run, sizes.positions); begin += piece) {
          Vector<acc_t> some_products{}, some{};
          for_columns<scalar_t>(std::min(piece, sizes.positions - begin), [&](int64_t col, auto count) {
            const auto own = load(x + begin + col, count), dz = each(before, load(grad + begin + col, count), own);
            if constexpr (Keep::value) store(kept + c * sizes.positions + begin + col, dz, count);
            some_products += together(dz * (own - of.mean));
            some += together(dz);
          });
          run_products += some_products;
          run_total += some;
        }
        products += run_products;
        total += run_total;
      }
      sums[c] = sum<acc_t>(products) * of.rstd;
      sums[second + c] = sum<acc_t>(total);
    }
  }

  template <class Keep, class Streamed>
  void write(const Group& of, int64_t i, [[maybe_unused]] const acc_t* kept, Keep, Streamed streamed) const {
    const acc_t *means = data<acc_t>(args.means), slope = means[i] * of.rstd, shift = means[sizes.batch * sizes.groups + i];
    for (int64_t c = 0; c < sizes.each; ++c) {
      const scalar_t *x = of.x + c * sizes.positions, *grad = of.grad + c * sizes.positions;
      scalar_t* const to = data<scalar_t>(args.dx) + i * sizes.group + c * sizes.positions;
      const int64_t channel = i % sizes.groups * sizes.each + c;
      const acc_t weight = number<scalar_t>(args.weight, channel, 1);
      const auto scale = splat(of.rstd * weight), bias = splat(number<scalar_t>(args.bias, channel, 0));
      const auto one = [&, weight](auto g, auto x) {  // g: dz where it was kept
        const auto away = x - of.mean;
        const auto dz = Keep::value ? g : gradient_before<activation>(g, away, scale, bias);
        return (rounded(dz * weight) - shift - away * slope) * of.rstd;
      };
      for_columns<scalar_t>(sizes.positions, [&](int64_t col, auto count) {
        const auto own = load(x + col, count);
        if constexpr (Keep::value) put(to + col, each(one, load(kept + c * sizes.positions + col, count), own), count, streamed);
        else put(to + col, each(one, load(grad + col, count), own), count, streamed);
      });
    }
  }

  template <class Keep>
  void run(Keep keep) const {
    const bool past_caches = args.dx && can_stream<scalar_t>(as_rows(args.dx, sizes.positions));
    parallel_for(sizes.batch * sizes.groups, kGrain / sizes.group + 1, [&](int64_t begin, int64_t end) {
      const std::unique_ptr<acc_t[]> kept(Keep::value ? new acc_t[sizes.group] : nullptr);
      if_streamed(past_caches, [&](auto streamed) {
        for (int64_t i = begin; i < end; ++i) {
          const Group own = group(i);
          find_sums(own, i, kept.get(), keep);
          if (!args.dx) continue;
          find_means<scalar_t>(args, sizes, 1, i);
          write(own, i, kept.get(), keep, streamed);
        }
      });
    });
  }

  void run() const {
    constexpr int64_t most = 1 << 18;  // numbers, for each thread
    if constexpr (activation != Activation::none)
      if (args.dx && sizes.group <= most) return run(std::true_type());
    run(std::false_type());
  }
};

}  // namespace

void group_norm_forward(Output y, Output mean, Output rstd, Output partial, Input x, Input weight, Input bias, int64_t groups,
                        int64_t last, double eps, int64_t activation) {
  const GroupForward args{y, mean, rstd, partial, x, weight, bias, groups, eps};
  dispatch(x.dtype, [&](auto type) {
    with_activation<Activation::none, Activation::silu>(activation, [&](auto kind) {
      using scalar_t = decltype(type);
      constexpr Activation function = decltype(kind)::value;
      if (partial) return LastForward<scalar_t, function>(args).run();
      Forward<scalar_t, function>{args, {x, groups, last != 0}, last != 0}.run();
    });
  });
}

void group_norm_backward(Output dx, Output dweight, Output dbias, Output partial, Output means, Input grad, Input x, Input weight,
                         Input bias, Input mean, Input rstd, int64_t groups, int64_t last, int64_t activation) {
  const GroupBackward args{dx, dweight, dbias, partial, means, grad, x, weight, bias, mean, rstd, groups};
  dispatch(x.dtype, [&](auto type) {
    using scalar_t = decltype(type);
    with_activation<Activation::none, Activation::silu>(activation, [&](auto kind) {
      constexpr Activation function = decltype(kind)::value;
      if (last) return LastBackward<scalar_t, function>(args).run();
      Backward<scalar_t, function>{args, {x, groups, false}}.run();
    });
    const int64_t parts = partial.rows() / 2, channels = partial.dim();
    const auto* const sums = data<accumulation_t<scalar_t>>(partial);
    if (dweight) add_parts(data<scalar_t>(dweight), sums, parts, channels);
    if (dbias) add_parts(data<scalar_t>(dbias), sums + parts * channels, parts, channels);
  });
}

}  // namespace pylayers::cpu::PYLAYERS_ISA
