def softmax_forward(op, input, dim, log):
    x = op.widen(input)
    if not len(input.shape):  # no axis to name
        x = op.Reshape(x, op.ints(1))
    y = (op.LogSoftmax if log else op.Softmax)(x, axis=dim)
    return op.narrow(y if len(input.shape) else op.Reshape(y, op.ints()), input)


def softmax_masked_forward(op, input, mask, scale, causal):
    acc = op.acc(input)
    nothing, zero = op.number(-float("inf"), acc), op.number(0.0, acc)
    scores = op.widen(input)
    scores = scores if scale == 1 else op.Mul(scores, op.number(scale, acc))
    if mask is not None:
        is_bool = mask.dtype.name == "BOOL"
        scores = op.Where(mask, scores, nothing) if is_bool else op.Add(scores, op.widen(mask))
    if causal:
        scores = op.Where(_seen(op, input), scores, nothing)
    # A query that may attend nothing has scores of −inf alone, whose softmax is nan.
    alone = op.Equal(op.ReduceMax(scores, op.ints(-1), keepdims=1), nothing)
    y = op.Softmax(op.Where(alone, zero, scores), axis=-1)
    return op.narrow(op.Where(alone, zero, y), input)


def _seen(op, input):
    """[queries, keys]: whether key ≤ query + keys − queries."""
    queries, keys = (op.Squeeze(op.Shape(input, start=start, end=end)) for start, end in ((-2, -1), (-1, None)))
    zero, one = (op.Squeeze(op.ints(value)) for value in (0, 1))
    query = op.Unsqueeze(op.Add(op.Range(zero, queries, one), op.Sub(keys, queries)), op.ints(1))
    return op.LessOrEqual(op.Range(zero, keys, one), query)
