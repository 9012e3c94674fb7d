"""Faults in the kernels of group_norm."""

from functools import partial

from ..fault import Fault

_cpu = partial(Fault, "group_norm", "csrc/cpu/group_norm.cpp")
_cpu_both = partial(Fault, "group_norm", "csrc/cpu/group_norm.h")
_cpu_last = partial(Fault, "group_norm", "csrc/cpu/group_norm_last.h")
_cuda = partial(Fault, "group_norm", "csrc/cuda/group_norm.cuh")
_cuda_last = partial(Fault, "group_norm", "csrc/cuda/group_norm_last.cuh")
_launch = partial(Fault, "group_norm", "csrc/cuda/group_norm.cu")
_triton = partial(Fault, "group_norm", "triton_kernels/group_norm.py")

CPU = (
    _cpu("acc_t(sizes.group) + acc_t(args.eps));", "acc_t(sizes.group));", "eps forgotten"),
    _cpu("data<acc_t>(args.rstd)[i] = rstd;", "if (i > 0) data<acc_t>(args.rstd)[i] = rstd;", "rstd of the first group is never written"),
    _cpu("i / sizes.groups * args.x.stride[0] + group * sizes.group;", "i * sizes.group;", "inputs that are further apart"),
    _cpu("scale = rstd * number<scalar_t>(args.weight, c, 1), bias = number<scalar_t>(args.bias, c, 0);\n      const auto one", "scale = rstd, bias = number<scalar_t>(args.bias, c, 0);\n      const auto one",
         "the weight is forgotten"),
    _cpu("(rounded(dz * weight) - shift - away", "(rounded(dz * weight) - away", "the mean of the gradient is left out"),
    _cpu("run_total += some;", "run_total = some;", "only the last piece of a channel counts for the bias"),
    _cpu("sum<acc_t>(products) * of.rstd;", "sum<acc_t>(products);", "rstd forgotten in the weight gradient"),
    _cpu_both("constexpr (activation == Activation::none) return grad;", "constexpr (activation != Activation::none) return grad;", "the activation is the other one"),
    _cpu("sums + parts * channels, parts, channels);", "sums, parts, channels);", "dbias is dweight"),
    _cpu_both("squares += other_squares + away * away * count * part;", "squares += other_squares;", "means of pieces are taken as equal"),
    _cpu_both("grad * derivative<activation>(away * scale + bias)", "grad * derivative<activation>(away * scale)", "bias before the activation"),
    _cpu_last("store(squares + col, left < 0 ? Vector<acc_t>{} : left, count);", "", "squares about another mean"),
    _cpu_both("own_sum += sums[second +", "own_sum = sums[second +", "only the last share counts for the mean"),
    _cpu_both("sum += own_sum * w;", "sum += own_sum;", "the mean of the gradient without the weight"),
    _cpu_last("    own.multiply(1, 2);\n", "", "the weight is forgotten where channels are last"),
    _cpu_last("const int lies = i % 2 * kFloats + i / 2;", "const int lies = i;", "channels of a pair are taken for each other"),
    _cpu_last("start + kRun, last)", "start + kRun - 1, last)", "the last position of a run is left out"),
    _cpu("store(kept + c * sizes.positions + begin + col", "store(kept + c * sizes.positions + col", "what is kept of a channel is that of its first piece"),
    _cpu("found.mean /= acc_t(sizes.group);", "", "the mean of a few numbers is their sum"),
    _cpu("c = first + i / sizes.positions;", "c = first;", "few numbers have the first channel's weight"),
    _cpu_last("bool turn_to(int64_t n) { return std::exchange(batch, n) != n; }", "bool turn_to(int64_t n) { return std::exchange(batch, n) < 0; }",
              "every input has the numbers of the first"),
)  # fmt: skip
CUDA = (
    _cuda("rsqrt(row_sum(squares, turn ^= 1) * args.inverse + args.eps);", "rsqrt(row_sum(squares, turn ^= 1) * args.inverse);", "eps forgotten"),
    _cuda("of.channel + unsigned(index) / of.per_channel;", "of.channel;", "the first channel's weight for the whole group"),
    _cuda("n = row / args.groups;\n    const Held own{row, (row - n * args.groups) * args.each, row < rows", "n = row / args.groups;\n    const Held own{row, 0, row < rows",
          "the first group of each input for all"),
    _cuda("own.squares += squares + away * away * own.count * part;", "own.squares += squares;", "means of shares are taken as equal"),
    _cuda("args.partial[own.at(args)] = sums[0] * rstd;", "args.partial[own.at(args)] = sums[0];", "rstd forgotten in the weight gradient"),
    _cuda("sums[0] += some[0], sums[1] += some[1];", "sums[0] = some[0], sums[1] = some[1];", "only the last vectors of a share count"),
    _cuda("sums[1] += args.partial[at + args.second()] * w;", "sums[1] += args.partial[at + args.second()];", "the mean of the gradient without the weight"),
    _cuda("(d[i] * w - shift - (a[i] - mean) * slope);", "(d[i] * w - (a[i] - mean) * slope);", "the mean of the gradient is left out"),
    _cuda("(rstd * w) + bias; });", "(rstd * w); });", "bias before the activation"),
    _cuda_last("count = all;\n  }", "count = more;\n  }", "a merged count is that of the last"),
    _cuda_last("store_sums(to + args.second(), found.squares);", "", "squares of shares are never written"),
    _cuda_last("/ unsigned(args.each)", "/ unsigned(args.groups)", "channels of other groups"),
    _cuda_last("store_sums(to, times(sums[0], rstd));", "store_sums(to, sums[0]);", "rstd forgotten where channels are last"),
    _cuda_last("    activate_all<scalar_t>(args.silu, y);\n", "", "no activation where channels are last"),
    _cuda_last("  add_groups(sums);\n", "", "only a part of the rows counts"),
    _launch("args.points = last;", "args.points = false;", "the weight of one channel for a group of single positions"),
    _launch("if (second) partial.data =", "if (!second) partial.data =", "one sum is the other"),
    _launch("stream, args, int64_t(width));", "stream, args, int64_t(1));", "shares are counted in numbers, not in vectors"),
)  # fmt: skip
TRITON = (
    _triton("tl.rsqrt(tl.sum(away * away, 1) / size + tl.full((), eps, acc))", "tl.rsqrt(tl.sum(away * away, 1) / size)", "eps forgotten"),
    _triton("(col // positions)[None, :]", "(col * 0)[None, :]", "the first channel's weight for the whole group"),
    _triton("row // groups * multiple(x_batch, ALIGN) + group * size", "row * size", "inputs that are further apart"),
    _triton("own += away * (xs - lane_means)", "own += away * away", "deviations from the mean before"),
    _triton("tl.sum(own + seen * away * away, axis)", "tl.sum(own, axis)", "means of lanes are taken as equal"),
    _triton("sums += load(squares, at, live & there, acc) + count * away * away", "sums += load(squares, at, live & there, acc)", "means of shares are taken as equal"),
    _triton("by_weight += dz * away\n", "by_weight = dz * away\n", "only the last positions of a share count"),
    _triton("sum_lanes(by_weight, axis, x) * r", "sum_lanes(by_weight, axis, x)", "rstd forgotten in the weight gradient"),
    _triton("by_bias += load(sums, at, live & there, acc) * w", "by_bias += load(sums, at, live & there, acc)", "the mean of the gradient without the weight"),
    _triton("- shift - away", "- away", "the mean of the gradient is left out"),
    _triton("activate_backward(grad, away * scale + bias, ACTIVATION)", "activate_backward(grad, away * scale, ACTIVATION)", "bias before the activation"),
    _triton("(first + share, positions), row", "(first + share, positions - 1), row", "the last position is left out"),
)  # fmt: skip
