"""Faults in the CUDA kernels that normalise."""

from functools import partial

from ..fault import Fault

_norm = partial(Fault, "rms_norm", "csrc/cuda/device/norm.cuh")
_backward = partial(Fault, "rms_norm", "csrc/cuda/device/norm_backward.cuh")
_launch = partial(Fault, "rms_norm", "csrc/cuda/device/norm_launch.cuh")
_cluster = partial(Fault, "layer_norm", "csrc/cuda/device/cluster.cuh")
_centred = partial(Fault, "layer_norm", "csrc/cuda/device/norm.cuh")
_centred_backward = partial(Fault, "layer_norm", "csrc/cuda/device/norm_backward.cuh")
_added = partial(Fault, "add_rms_norm", "csrc/cuda/device/norm.cuh")
_added_backward = partial(Fault, "add_rms_norm", "csrc/cuda/device/norm_backward.cuh")

FAULTS = (
    # Forward
    _norm("+ args.eps);\n    stay_packed(x);", ");\n    stay_packed(x);", "eps forgotten"),
    _norm(
        "+ args.eps);\n    if (args.rstd && threadIdx",
        ");\n    if (args.rstd && threadIdx",
        "eps forgotten in long rows",
    ),
    _norm("acc_t(on.weight ? on.offset : 1)", "acc_t(on.weight ? 0 : 1)", "offset forgotten"),
    _norm("acc_t(on.weight ? on.offset : 1)", "acc_t(on.offset)", "without a weight, offset does not count"),
    _norm(
        "acc_t(1. / on.x.dim())",
        "acc_t(1. / std::max<int64_t>(on.x.dim() - 1, 1))",
        "the mean divides by n − 1",
    ),
    _norm(
        "args.rstd && live && team.leads()",
        "args.rstd && live && team.leads() && row > 0",
        "rstd of the first row is never written",
    ),
    _norm(
        "row < args.rows ? count : 0;  // vectors",
        "row <= args.rows ? count : 0;  // vectors",
        "a row behind the last",
    ),
    _norm(
        "load_one<width>(args.weight, index, weight_count)",
        "load_one<width>(args.weight, lane, weight_count)",
        "weight of other columns",
    ),
    _norm(
        "add_squares(squares, x[v], mean);",
        "add_squares(squares, x[v], mean), squares = acc_t(__half2float(__float2half(float(squares))));",
        "an accumulator in half precision",
    ),
    _norm(
        "last = (count - 1) / step * step + threadIdx.x;\n  int turn",
        "last = count / step * step - step + threadIdx.x;\n  int turn",
        "the tail of a long row is forgotten",
    ),
    _norm(
        "index + v * kChunkThreads, count,\n                  normalised",
        "index + v, count,\n                  normalised",
        "columns shifted",
    ),
    _launch("kForwardThreads<Norm, width>, 128);", "2 * kForwardThreads<Norm, width>, 128);", "more threads in a block than there can be"),
    _centred(
        "if (!Norm::centred || int(lane + v * blockDim.x) < live) add_squares",
        "add_squares",
        "what lies behind a row counts in the variance",
    ),
    _centred("if constexpr (Norm::centred) y[i] += b[i];", "", "the bias is forgotten"),
    _centred(
        "args.mean && live && team.leads()",
        "args.mean && live && team.leads() && row > 0",
        "the first mean is never written",
    ),
    _centred("mean += away * part;", "mean += away;", "pieces of a long row do not weigh what they hold"),
    _centred("own + away * away * count * part", "own", "how the means of pieces differ is left out of the variance"),
    _centred(
        "own.squares += own.count * (own.mean - mean) * (own.mean - mean);\n",
        "",
        "how the means of threads differ is left out of the variance",
    ),
    _added("      for (int i = 0; i < width; ++i) sum[i] += a[i];", "", "nothing is added"),
    _added(
        "first += some, index += some * blockDim.x",
        "first += some, index += blockDim.x",
        "some columns twice, others never",
    ),
    _added(
        "residual, args.residual + number * args.residual_stride",
        "residual, args.residual + number * args.x_stride",
        "the residual is read at the stride of x",
    ),
    Fault(
        "add_layer_norm",
        "csrc/cuda/device/add_norm.cuh",
        "bytes_of_16_bit >= 8 && bytes_of_float >= 16",
        "bytes_of_16_bit >= 8",
        "float32 is taken for as well aligned as the 16-bit numbers beside it",
    ),
    # Backward
    _backward(
        "(a[i] - of.mean) * of.slope);",
        "(a[i] - of.mean) * of.slope * acc_t(1.01));",
        "a part of the gradient is 1 % too large",
    ),
    _backward(
        "sums[0] += g[i] * (offset + w[i]) *",
        "sums[0] += g[i] * w[i] *",
        "offset forgotten in the mean of backward",
    ),
    _backward(
        "acc_t(1. / on.x.dim())",
        "acc_t(1. / std::max<int64_t>(on.x.dim() - 1, 1))",
        "the mean of backward divides by n − 1",
    ),
    _backward("dweight[i] += g[i]", "dweight[i] = g[i]", "only the last row of a part counts"),
    _backward(
        "(args, row + blockDim.y, share.last, count)",
        "(args, row, share.last, count)",
        "the row that is loaded early is the present one",
    ),
    _backward("if (live) numbers.load(", "numbers.load(", "rstd is read behind the last row"),
    _backward("if (live) numbers[r].load(", "numbers[r].load(", "rstd is read behind the last row, in long rows"),
    _launch(
        "kSums<Norm> * width * sizeof(acc_t)), stream, args",
        "0 * sizeof(acc_t)), stream, args",
        "no shared memory is asked for",
    ),
    _backward(
        "args.dweight + part * args.dim",
        "args.dweight + part / 2 * args.dim",
        "two parts are summed into one place",
    ),
    _centred_backward("shift = sums[1] * inverse_dim;", "shift = 0;", "the mean of the gradient is left out"),
    _centred_backward("(*dbias)[i] += g[i]", "(*dbias)[i] = g[i]", "only the last row of a part counts for the bias"),
    _centred_backward(
        "(on.dweight ? on.partial.rows() / 2 * on.x.dim() : 0)",
        "0",
        "the parts of both sums are written to one place",
    ),
    _centred_backward("if constexpr (Norm::centred) mean = args.mean[row];", "", "backward does not subtract the mean"),
    _added_backward("if constexpr (Norm::adds) d[i] += more[i];", "", "the gradient of the sum is forgotten"),
    _added_backward("lane, args.dtotal ? live : 0", "lane, live", "a gradient that does not exist is read"),
    _added_backward(
        "args.dresidual && index < count)",
        "args.dresidual)",
        "the residual's gradient is written behind its end",
    ),
    _added_backward("if (!Norm::adds || args.dx) store", "store", "a gradient is written where it was not asked for"),
    # Clusters
    _cluster("    sync();\n#pragma", "#pragma", "the sums of other blocks are read before they are there"),
    _cluster("size_(this_size()) { sync(); }", "size_(this_size()) {}", "shared memory of a block that may not have begun"),
    _cluster("slots[turn][rank][i]);", "slots[turn][0][i]);", "the first block's sum counts for the others"),
    _cluster("max(min(each, count - first), 0)", "each", "the last block goes beyond the row"),
)
