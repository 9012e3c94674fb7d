"""Faults in the CUDA kernels of softmax."""

from functools import partial

from ..fault import Fault

_softmax = partial(Fault, "softmax", "csrc/cuda/softmax.cu")
_held = partial(Fault, "softmax", "csrc/cuda/device/softmax_held.cuh")
_scores = partial(Fault, "softmax", "csrc/cuda/device/softmax.cuh")
_columns = partial(Fault, "softmax", "csrc/cuda/softmax_columns.cu")

FAULTS = (
    _held("found.top = row_max(found.top, turn ^= 1, team);", "", "every thread has a maximum of its own"),
    _softmax(
        "found.raise(row_max(found.top, turn ^= 1));",
        "found.top = row_max(found.top, turn ^= 1);",
        "sums of several maxima",
    ),
    _softmax("      found.raise(top);\n", "      found.top = top;\n", "a long row's sum keeps its old maximum"),
    _held(
        "found.total = row_sum(found.total, turn, team);\n    const Finish<scalar_t> finish(found, args.of_nothing, args.log);\n#p",
        "const Finish<scalar_t> finish(found, args.of_nothing, args.log);\n#p",
        "the sums of other threads are left out",
    ),
    _held("args.log ? s[v][i] - finish.rest", "args.log ? s[v][i]", "the logarithm of the sum is forgotten"),
    _held("if (log) rest = ::log(row.total);", "if (log) rest = row.total;", "not the logarithm of the sum"),
    _held("a[i] * ((dx[i] - sum) * scale)", "a[i] * (dx[i] - sum)", "scale forgotten in backward"),
    _held("dx[i] - exponential<scalar_t>(a[i]) * sum", "dx[i] - a[i] * sum", "the logarithm is not undone in backward"),
    _softmax("queries, causal != 0, false, 0);", "queries, causal != 0, false, kNan);", "nothing to attend is nan"),
    _softmax("mask.size[i] > 1) bits |=", "mask.size[i] < 0) bits |=", "wide accesses to a mask at odd strides"),
    _scores("unsigned(row) % queries + dim - queries + 1", "int64_t(unsigned(row) % queries) + 1", "causal is aligned to the first key"),
    _scores("matrix % inner * stride[1]", "matrix % inner * stride[0]", "the mask of another head"),
    _scores("s[i] += added[i];", "s[i] += added[i] * scale;", "the mask is scaled too"),
    _scores("if (!allowed.value[i])", "if (allowed.value[i])", "true and false exchanged"),
    _scores("if (index * width + i >= live) s[i]", "if (index * width >= live) s[i]", "the last vector that causal lets through"),
    _scores("return top == -infinity<acc_t>() ? acc_t(0) : top;", "return top;", "the distance of −inf from −inf"),
    _scores("if (total != 0) total *= exponential<scalar_t>(before - top);", "", "sums keep their old maximum"),
    _columns("if (first + r * blockDim.y >= place.end) s[r][i]", "if (false) s[r][i]", "rows behind the last count as 0"),
    _columns(
        "    __syncthreads();\n#pragma unroll\n    for (int i = 0; i < width; ++i)\n      if (group < half)",
        "#pragma unroll\n    for (int i = 0; i < width; ++i)\n      if (group < half)",
        "sums are read before they are there",
    ),
    _columns(
        "row < place.end; row += blockDim.y) {\n    auto y",
        "row < place.end - 1; row += blockDim.y) {\n    auto y",
        "the last row is never written",
    ),
    _columns(
        "std::max(group_bytes(threads, bytes_of_a_thread), threads.x * bytes_of_a_thread)",
        "group_bytes(threads, bytes_of_a_thread)",
        "no shared memory where one thread holds a column",
    ),
)
