from __future__ import annotations

from typing import TYPE_CHECKING

from .operators import static

if TYPE_CHECKING:
    from onnx_ir import Graph


def rotary_rotate(op, q, k, cos, sin, positions, interleaved, heads_first, inverse):
    sin = op.Neg(sin) if inverse else sin
    tables = (cos, sin, positions, cos.shape[-1], len(cos.shape))
    return tuple(op.unused() if x is None else _rotated(op, x, tables, interleaved, heads_first) for x in (q, k))


def _rotated(op, x, tables, interleaved, heads_first):
    """x as (batch, tokens, heads, head_dim), or with heads before tokens."""
    acc, rank, size = op.acc(x), len(x.shape), static(x.shape[-1:])
    heads = static([x.shape[rank - (3 if heads_first else 2)]])
    newer = op.since(23, acc)
    four = op.widen(x) if rank == 4 else op.Unsqueeze(op.widen(x), op.ints(0))
    if newer and heads and size:
        y = _operator(op, newer, four, tables, heads[0], size[0], interleaved, heads_first)
    else:
        y = _plain(op, four, tables, acc, interleaved, heads_first)
    return op.narrow(y if rank == 4 else op.Squeeze(y, op.ints(0)), x)


def _operator(op, newer, x, tables, heads, size, interleaved, heads_first):
    cos, sin, positions, half, rank = tables
    kind = {"interleaved": int(interleaved), "rotary_embedding_dim": 0 if 2 * half == size else 2 * half, "num_heads": heads}
    batch, tokens = op.Shape(x, end=1), _tokens(op, x, heads_first)
    if positions is not None:
        positions = op.Expand(op.Cast(positions, to=7), op.Concat(batch, tokens, axis=0))
    else:
        to = op.Concat(batch, tokens, op.ints(half), axis=0)
        cos, sin = (op.Expand(one if rank == 3 else op.Slice(one, op.ints(0), tokens, op.ints(0)), to) for one in (cos, sin))
    if heads_first:
        return newer.RotaryEmbedding(x, cos, sin, positions, **kind)
    # (batch, tokens, heads · head_dim) is the other layout of the operator: nothing is moved.
    y = newer.RotaryEmbedding(op.Reshape(x, op.ints(0, 0, heads * size)), cos, sin, positions, **kind)
    return op.Reshape(y, op.Shape(x))


def _plain(op, x, tables, acc, interleaved, heads_first):
    cos, sin, positions, half, rank = tables
    if positions is not None:
        cos, sin = (op.Gather(one, positions, axis=0) for one in (cos, sin))
    elif rank == 2:
        cos, sin = (op.Slice(one, op.ints(0), _tokens(op, x, heads_first), op.ints(0)) for one in (cos, sin))
    cos, sin = (op.Unsqueeze(op.Cast(one, to=acc), op.ints(-3 if heads_first else -2)) for one in (cos, sin))
    a, b = (_part(op, x, index, half, interleaved) for index in (0, 1))
    pair = op.Sub(op.Mul(a, cos), op.Mul(b, sin)), op.Add(op.Mul(b, cos), op.Mul(a, sin))
    if interleaved:
        both = op.Concat(*(op.Unsqueeze(one, op.ints(-1)) for one in pair), axis=-1)
        turned = op.Reshape(both, op.with_last(x, 2 * half))
    else:
        turned = op.Concat(*pair, axis=-1)
    return op.Concat(turned, op.Slice(x, op.ints(2 * half), op.ints(2**62), op.ints(-1)), axis=-1)


def _part(op, x, index, half, interleaved):
    first, last, step = (index, 2 * half, 2) if interleaved else (index * half, (index + 1) * half, 1)
    return op.Slice(x, op.ints(first), op.ints(last), op.ints(-1), op.ints(step))


def _tokens(op, x, heads_first):
    return op.Shape(x, start=2, end=3) if heads_first else op.Shape(x, start=1, end=2)


def widen_tables(graph: Graph) -> None:
    """torch's optimizer makes RotaryEmbedding of rotations that were spelt out, and leaves it a table of one sequence where there are
    several, which the operator does not take."""
    import onnx_ir

    for node in [one for one in graph if one.op_type == "RotaryEmbedding" and one.inputs[3:] in ((), (None,))]:
        x, *tables = node.inputs[:3]
        if any((maker := table.producer()) is not None and maker.op_type == "Expand" for table in tables):
            continue
        batch = onnx_ir.node("Shape", [x], {"start": 0, "end": 1})
        rest = onnx_ir.node("Shape", [tables[0]], {"start": 1})
        to = onnx_ir.node("Concat", [*batch.outputs, *rest.outputs], {"axis": 0})
        wide = [onnx_ir.node("Expand", [table, *to.outputs]) for table in tables]
        graph.insert_before(node, [batch, rest, to, *wide])
        for index, one in enumerate(wide, 1):
            node.replace_input_with(index, one.outputs[0])
