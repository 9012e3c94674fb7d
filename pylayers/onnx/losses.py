"""Losses over classes: rows of logits [rows, classes, …] as SoftmaxCrossEntropyLoss takes them."""

import math

from .operators import static


def cross_entropy_forward(op, input, target, weight, ignore_index, label_smoothing, z_loss, softcap):
    alone = len(input.shape) == 1  # one row
    z, labels = (op.typed(op.Unsqueeze(one, op.ints(0)), one) if alone else one for one in (op.widen(input), target))
    rows = _Rows(op, z, labels, op.widen(weight), max(len(input.shape), 2), op.acc(input))
    loss, share = rows.loss(ignore_index, label_smoothing, z_loss, softcap)
    loss, share = (op.Squeeze(one, op.ints(0)) if alone else one for one in (loss, share))
    return loss, op.unused(), op.unused(), share


def linear_cross_entropy_forward(
    op, input, linear_weight, target, linear_bias, weight, ignore_index, label_smoothing, z_loss, softcap, chunk_rows, mask
):
    classes, *further, inner = static(linear_weight.shape)
    positions = math.prod(further)
    logits = _logits(op, input, op.Reshape(op.widen(linear_weight), op.ints(-1, inner)), linear_bias)
    logits = op.Reshape(logits, op.ints(-1, classes, positions))
    sizes = (-1, positions) if target.dtype.name == "INT64" else (-1, classes, positions)
    labels = op.typed(op.Reshape(target, op.ints(*sizes)), target)
    rows = _Rows(op, logits, labels, op.widen(weight), 3, op.acc(input))
    loss, share = (op.Transpose(one, perm=[1, 0]) for one in rows.loss(ignore_index, label_smoothing, z_loss, softcap))
    return loss, op.unused(), op.unused(), share, op.unused(), op.unused(), op.unused()


def linear_kl_div_forward(op, input, weight, teacher, teacher_weight, bias, teacher_bias, temperature, chunk_rows, mask):
    acc = op.acc(input)

    def log_probabilities(x, w, b):
        logits = _logits(op, x, op.widen(w), b)
        return op.LogSoftmax(logits if temperature == 1 else op.Div(logits, op.number(temperature, acc)), axis=-1)

    taught, known = log_probabilities(input, weight, bias), log_probabilities(teacher, teacher_weight, teacher_bias)
    loss = op.ReduceSum(op.Mul(op.Exp(known), op.Sub(known, taught)), op.ints(-1), keepdims=0)
    return op.Mul(loss, op.number(temperature**2, acc)), op.unused(), op.unused(), op.unused()


def _logits(op, x, weight, bias):
    """In the dtype that is computed in, as the chunks of the kernels are."""
    product = op.MatMul(op.widen(x), op.Transpose(weight, perm=[1, 0]))
    return product if bias is None else op.Add(product, op.Reshape(op.widen(bias), op.ints(-1)))


class _Rows:
    def __init__(self, op, logits, target, weight, rank, acc):
        self.op, self.z, self.target, self.weight, self.acc = op, logits, target, weight, acc
        self.soft = None if target.dtype.name == "INT64" else op.widen(target)
        self.by_class = None if weight is None else op.Reshape(weight, op.ints(-1, *[1] * (rank - 2)))

    def loss(self, ignore_index, smoothing, z_loss, softcap):
        """The loss of each row, and what each counts in a mean."""
        op = self.op
        if softcap:
            cap = op.number(softcap, self.acc)
            self.z = op.Mul(op.Tanh(op.Div(self.z, cap)), cap)
        live = None if self.soft is not None else op.Not(op.Equal(self.target, op.Squeeze(op.ints(ignore_index))))
        # A row that is ignored counts for nothing, whatever stands in it.
        counted = (lambda x: x) if live is None else lambda x: op.Where(live, x, op.number(0.0, self.acc))
        loss = self._of_classes(ignore_index) if self.soft is None else self._of_probabilities()
        if smoothing:
            spread = op.ReduceMean(self._surprise(), op.ints(1), keepdims=0)
            kept = op.Mul(loss, op.number(1 - smoothing, self.acc))
            loss = op.Add(kept, counted(op.Mul(spread, op.number(smoothing, self.acc))))
        if z_loss:
            lse = op.ReduceLogSumExp(self.z, op.ints(1), keepdims=0)
            loss = op.Add(loss, counted(op.Mul(op.Mul(lse, lse), op.number(z_loss, self.acc))))
        return loss, counted(self._weight_of_targets(live, loss))

    def _of_classes(self, ignore_index):
        given = () if self.weight is None else (self.weight,)
        return self.op.SoftmaxCrossEntropyLoss(self.z, self.target, *given, ignore_index=ignore_index, reduction="none")[0]

    def _of_probabilities(self):
        return self.op.ReduceSum(self.op.Mul(self.soft, self._surprise()), self.op.ints(1), keepdims=0)

    def _surprise(self):
        surprise = self.op.Neg(self.op.LogSoftmax(self.z, axis=1))
        return surprise if self.weight is None else self.op.Mul(surprise, self.by_class)

    def _weight_of_targets(self, live, loss):
        op = self.op
        if live is None or self.weight is None:
            return op.Expand(op.number(1.0, self.acc), op.Shape(loss))
        return op.Gather(self.weight, op.Where(live, self.target, op.Squeeze(op.ints(0))), axis=0)
