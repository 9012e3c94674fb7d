# The orders of the kernels' kinds and reductions.
KINDS = ("squares", "logits", "probabilities", "log_probabilities")
REDUCTIONS = ("none", "mean", "sum", "batchmean")


def pointwise_loss_forward(op, input, target, weight, pos_weight, kind, reduction):
    acc, name = op.acc(input), REDUCTIONS[reduction]
    x, t, w, p = (op.widen(one) for one in (input, target, weight, pos_weight))
    loss = _loss(op, x, t, p, acc, KINDS[kind])
    loss = loss if w is None else op.Mul(loss, w)
    if name != "none":
        loss = op.ReduceSum(loss, keepdims=0)
    if name == "mean" or (name == "batchmean" and len(input.shape)):
        count = op.Size(input) if name == "mean" else op.Squeeze(op.Shape(input, end=1))
        loss = op.Div(loss, op.Cast(count, to=acc))
    return op.narrow(loss, input)


def _loss(op, x, t, p, acc, kind):
    if kind == "squares":
        return op.Mul(op.Sub(x, t), op.Sub(x, t))
    if kind == "log_probabilities":
        return op.Mul(op.Exp(t), op.Sub(t, x))
    if kind == "probabilities":
        zero = op.number(0.0, acc)
        return op.Where(op.Equal(t, zero), zero, op.Mul(t, op.Sub(op.Log(t), x)))
    yes = op.Mul(t if p is None else op.Mul(p, t), _softplus(op, op.Neg(x), acc))
    return op.Add(yes, op.Mul(op.Sub(op.number(1.0, acc), t), _softplus(op, x, acc)))


def _softplus(op, x, acc):
    """ln(1 + eˣ), with all its digits. onnxruntime has the operator for float32 alone."""
    if acc.name == "FLOAT":
        return op.Softplus(x)
    one, small = op.number(1.0, acc), op.Exp(op.Neg(op.Abs(x)))
    total = op.Add(one, small)  # ln(1 + e) = ln(s) · e / (s − 1) with s = 1 + e as it is rounded
    log = op.Where(op.Equal(total, one), small, op.Div(op.Mul(op.Log(total), small), op.Sub(total, one)))
    return op.Add(op.Relu(x), log)
