"""Faults in the kernels of cross entropy."""

from functools import partial

from ..fault import Fault

_cpu = partial(Fault, "cross_entropy", "csrc/cpu/cross_entropy.cpp")
_steps = partial(Fault, "cross_entropy", "csrc/cuda/cross_entropy.cu")
_sums = partial(Fault, "cross_entropy", "csrc/cuda/device/cross_entropy.cuh")
_ragged = partial(Fault, "cross_entropy", "csrc/cuda/device/ragged.cuh")
_triton = partial(Fault, "cross_entropy", "triton_kernels/cross_entropy.py")

CPU = (
    _cpu("(log_total - (z(target, 1)[0] - found.shift))", "(log_total - z(target, 1)[0])", "the target's logit without its shift"),
    _cpu("if (call.weight) result.share =", "if (false) result.share =", "the weight of the target is 1"),
    _cpu("result.scale = shares.keep * result.share;", "result.scale = result.share;", "smoothing takes nothing from the target"),
    _cpu("call.smoothing / static_cast<double>(call.x.dim())", "call.smoothing", "every class has the share of all"),
    _cpu(
        "return first_lanes(shares(col, count) * (log_total - (z(col, count) - found.shift)), count);",
        "return shares(col, count) * (log_total - (z(col, count) - found.shift));",
        "what lies behind a row counts",
    ),
    _cpu("return weight ? q * load(weight + col, count) : q;", "return q;", "shares without weights"),
    _cpu("q += load(soft + col, count) * keep;", "q += load(soft + col, count);", "probabilities are not smoothed"),
    _cpu("2 * z_loss * lse) / found.total", "z_loss * lse) / found.total", "half of the derivative of the square"),
    _cpu("result.loss += z_loss * lse * lse;", "result.loss += z_loss * log_total * log_total;", "the square of something else"),
    _cpu("(1 - z * inverse * (z * inverse))", "(1 - z * inverse)", "the slope of the soft cap"),
    _cpu("d - grad * (shares.keep * found.share)", "d - grad * found.share", "the target loses what was smoothed away"),
    _cpu(
        "  const auto [d, at] = term(target, 1);  // first: dx may be the memory of x\n  write_row<acc_t>(to, dim, dim, whole, streamed);\n",
        "  write_row<acc_t>(to, dim, dim, whole, streamed);\n  const auto [d, at] = term(target, 1);\n",
        "the logit of the target is read when its gradient is there",
    ),
    _cpu("if (t == call.ignore_index) return RowKind::ignored;", "", "rows to be ignored are wrong"),
    _cpu("return t >= 0 && t < call.x.dim()", "return t < call.x.dim()", "targets below zero are read", "the op looks at targets first"),
    _cpu("row * vector.stride[0]", "row", "one gradient for all rows is read as many"),
)

CUDA = (
    _sums("raise(row_max(this->top, turn));", "this->top = row_max(this->top, turn);", "sums beside several maxima"),
    _sums("      this->total = row_sum(this->total, turn);\n", "", "the sums of other threads are left out"),
    _sums("    Online<scalar_t>::raise(to);\n", "    this->top = to;\n", "a sum keeps its old maximum"),
    _sums(
        "distance -= share * (shift_of(this->top) - before);",
        "distance -= shift_of(this->top) - before;",
        "distances from an old maximum count as one",
    ),
    _sums("    if (*column == ignore_index) return RowKind::ignored;\n", "", "what is to be ignored is no class"),
    _sums("*column >= 0 && *column < dim", "*column < dim", "classes below zero are read"),
    _sums("*column >= 0 && *column < dim", "*column >= 0 && *column <= dim", "a class behind the last one is read"),
    _sums("q[i] * call.keep + call.each", "q[i] * call.keep", "probabilities are smoothed by half"),
    _sums(
        "  for (int i = 0; i < width; ++i) q[i] *= w[i];",
        "  for (int i = 1; i < width; ++i) q[i] *= w[i];",
        "a class of each vector has no weight",
    ),
    _steps(
        "(logits<capped>(args, own)[0] - shift)",
        "(unpack(own)[0] - shift)",
        "the logit of the target is not capped",
    ),
    _steps("    slope += each * sums.share;\n", "", "the derivative by lse lacks the other classes"),
    _steps("(slope + 2 * args.z_loss * lse)", "(slope + args.z_loss * lse)", "half of the derivative of the square"),
    _steps(
        "args.share[row] = kind == RowKind::wrong ? nan<acc_t>() : 0;",
        "args.share[row] = 0;",
        "what is no class is ignored",
    ),
    _steps("args.grad[row * args.grad_stride]", "args.grad[row]", "one number for all rows is read as many"),
    _steps("if (i == target) d[i] -= hit;", "if (i + 1 == target) d[i] -= hit;", "the class beside the target"),
    _steps("edge == column ? 0 : 1)", "1)", "the target is no column at an edge"),
    _steps(
        "d[i] *= 1 - z[i] * call.inverse * (z[i] * call.inverse);",
        "d[i] *= 1;",
        "the slope of the cap is forgotten",
    ),
    _steps(
        "kind == RowKind::wrong ? nan<acc_of<scalar_t>>() : 0, args.dim",
        "0, args.dim",
        "what is no class has no gradient",
    ),
    _ragged("return i < head ? i : i + count * width; }", "return i; }", "the columns behind the vectors are others"),
    _ragged("return i < head ? i : i + behind; }", "return i; }", "the gradients behind the vectors are not written"),
    _ragged(
        "if (width == 1 || reinterpret_cast<uintptr_t>(row) % sizeof(out[0]) == 0)",
        "if (true)",
        "wide accesses at odd places",
    ),
    _ragged("<< 16 * (i % 2)", "<< 16 * (1 - i % 2)", "neighbours are exchanged"),
    _ragged("int64_t(part) * most * width)", "int64_t(part) * most)", "parts of a row overlap"),
)

TRITON = (
    _triton("totals * tl.exp(tops - larger) + tl.sum(e, 1)", "totals + tl.sum(e, 1)", "a long row's sum keeps its old maximum"),
    _triton("tl.sum(totals * tl.exp(away), 1)", "tl.sum(totals, 1)", "sums of several maxima"),
    _triton("sums * tl.maximum(tops - larger, lowest(acc)) + ", "", "distances from maxima that are none any more"),
    _triton('tl.where(total == 0, float("nan"), total)', "total", "rows of −inf alone"),
    _triton("load(weight, t, counts, acc)", "load(weight, t * 0, counts, acc)", "the weight of the first class for all"),
    _triton(" * tl.full((), keep, acc) + tl.full((), each, acc)\n", "\n", "given probabilities are not smoothed"),
    _triton("slope + 2 * factor * lse", "slope + factor * lse", "the derivative of z_loss"),
    _triton("1 - ratio * ratio", "1.0", "the derivative of the softcap is forgotten"),
    _triton("own + q if SPREAD else own", "q if SPREAD else own", "smoothed, the target class has no more than the others"),
    _triton("tl.where(counts[:, None], d, otherwise[:, None])", "d", "rows that do not count have a gradient"),
    _triton("load(grad, row * grad_row, there, acc)", "load(grad, row, there, acc)", "one gradient for all is read as many"),
    _triton("row * multiple(soft_row, ALIGN) + col, col", "row * multiple(x_row, ALIGN) + col, col", "probabilities are read at the stride of x"),
)  # fmt: skip
