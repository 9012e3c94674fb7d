"""Faults in the kernels of losses of single numbers."""

from functools import partial

from ..fault import Fault

_cpu = partial(Fault, "pointwise_loss", "csrc/cpu/pointwise_loss.cpp")
_math = partial(Fault, "pointwise_loss", "csrc/cpu/math.h")
_cuda = partial(Fault, "pointwise_loss", "csrc/cuda/pointwise_loss.cu")
_triton = partial(Fault, "pointwise_loss", "triton_kernels/pointwise_loss.py")

CPU = (
    _cpu("(x < 0 ? from_below : from_above)", "from_above", "logits below 0 as those above"),
    _cpu("(1 + (p - 1) * t) * log_of_one_and(exp(-magnitude(x)))", "log_of_one_and(exp(-magnitude(x)))", "no weight of answers that are yes"),
    _cpu("return t == 0 ? V{} : t * (log(t) - x);", "return t * (log(t) - x);", "0 times infinity"),
    _cpu("(1 - t) * (x < 0 ? far : near)", "(1 - t) * (x < 0 ? near : far)", "the other tail"),
    _cpu("(x < 0 ? -p : splat(element_t<V>(-1))) * x", "-x", "the slope by a target without its weight"),
    _cpu("return log(t) + 1 - x;", "return log(t) - x;", "the slope of the logarithm"),
    _cpu("return w ? value * load(w + col, count) : value;", "return value;", "weights are forgotten"),
    _cpu("first_lanes(weigh(col, lanes, term(col, lanes).value()), lanes)", "weigh(col, lanes, term(col, lanes).value())", "what lies behind a row counts"),
    _cpu("at += some;", "at += call.dim;", "the rest of a row is left out"),
    _cpu("static_cast<acc_t>(total / size)", "static_cast<acc_t>(total)", "a sum for a mean"),
    _cpu("own += row_sum", "own = row_sum", "only the last row of a share counts"),
    _cpu("load(incoming + col, count) * factor : splat(factor)", "load(incoming + col, count) : splat(factor)", "a gradient each is not divided", "it is divided by 1"),
    _math("(subnormal ? splat(23.f) : Floats{})", "Floats{}", "logarithms of subnormal numbers"),
    _math("- 0x3f3504f3) >> 23", "- 0x3f800000) >> 23", "mantissas between 1 and 2, where the series is not made for them"),
)

CUDA = (
    _cuda("(x < 0 ? -(p * t * x) : (1 - t) * x)", "((1 - t) * x)", "logits below 0 as those above"),
    _cuda("return t == 0 ? 0 : t * (log(t) - x);", "return t * (log(t) - x);", "0 times infinity"),
    _cuda("(1 - t) * (x < 0 ? far : near)", "(1 - t) * (x < 0 ? near : far)", "the other tail"),
    _cuda("weighed ? ws[i] : acc_t(1)", "acc_t(1)", "weights are forgotten"),
    _cuda("weighs_positive ? ps[i] : acc_t(1)", "acc_t(1)", "no weight of answers that are yes"),
    _cuda("    if (row >= call.rows) continue;\n", "", "rows behind the last"),
    _cuda("      if (index + v * blockDim.x < count)\n", "", "what lies behind a row counts"),
    _cuda("  add_groups(sums);\n", "", "only the first rows of a block count"),
    _cuda("row_sum(sums[0][0], 0)", "sums[0][0]", "a thread for its block"),
    _cuda("turn / call.tiles * blockDim.y", "turn / call.tiles", "rows again and again"),
    _cuda("acc_t(1 / double(size)));\n    });", "acc_t(1));\n    });", "a sum for a mean"),
    _cuda("if (of_all) factor *=", "if (false) factor *=", "the gradient of the sum is 1"),
)

TRITON = (
    _triton("tl.where(x < 0, -(p * t * x), (1 - t) * x) +", "(1 - t) * x +", "logits below 0 as those above"),
    _triton("tl.where(t == 0, 0.0, t * (log(t) - x))", "t * (log(t) - x)", "0 times infinity"),
    _triton("tl.where(x < 0, far, near)", "tl.where(x < 0, near, far)", "the other tail"),
    _triton("sums += tl.where(live, ws * value(xs, ts, ps, KIND), 0.0)", "sums += ws * value(xs, ts, ps, KIND)", "what lies behind a row counts"),
    _triton("- tl.where(small, 23.0, 0.0)", "", "logarithms of subnormal numbers"),
    _triton("turns, tl.num_programs(0)):", "turns, turns):", "one tile a program"),
    _triton("    sum_parts(loss, partial, size=size)", "    sum_parts(loss, partial)", "a sum for a mean"),
    _triton("tl.load(grad).to(acc)", "tl.full((), 1.0, acc)", "the gradient of the sum is 1"),
    _triton("ws = load(weight,", "unused = load(weight,", "weights are forgotten"),
)
