from torch import Tensor

from ..door import door

_rotary = door("rotary")


def rotary(
    q: Tensor,
    k: Tensor,
    cos: Tensor,
    sin: Tensor,
    *,
    interleaved: bool = False,
    heads_first: bool = False,
    positions: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Rotary position embedding of queries and keys, both in one launch.

    Every pair :math:`(a, b)` of the first :math:`2h` features of a head turns by the angle :math:`\theta_i` of its token; the
    other features are copied, bit by bit.

    .. math:: a' = a \cos\theta_i - b \sin\theta_i, \quad b' = b \cos\theta_i + a \sin\theta_i, \quad i = 0, \ldots, h - 1

    The outputs are new tensors. The gradient is turned back by the same kernel. The tables have no gradient.

    Args:
        q, k: queries and keys with any strides; unit stride in the last dimension needs no copy. k may have fewer heads.
        cos, sin: tables of h columns. Row t is that of token t, or of position t where there are `positions`; a table for later
            tokens is a slice, `cos[offset:]`. Or a row for every token of every sequence. They are the leading half of the
            columns of what `transformers` calls cos and sin: `cos[..., : cos.shape[-1] // 2]`, which is not copied.
        interleaved: whether pair i is :math:`(x_{2i}, x_{2i+1})`, as GPT-J and the published LLaMA weights have it, instead of
            :math:`(x_i, x_{i+h})`, as GPT-NeoX and transformers have it.
        heads_first: whether q and k are (batch, heads, tokens, head_dim), as in transformers, instead of (batch, tokens, heads,
            head_dim), as in flash-attn.
        positions: the row of each token, int64 or int32: packed sequences, left padding, one more token. On the CPU one that is no
            row of the tables raises. A GPU is not waited for: such a token becomes NaN, and nothing out of bounds is read.

    Shape:
        - q :math:`(B, T, H, D)` or :math:`(T, H, D)`, k :math:`(B, T, H_k, D)` or :math:`(T, H_k, D)`, with `heads_first`
          :math:`(B, H, T, D)` and so on; the outputs as q and k.
        - cos, sin :math:`(R, h)` with :math:`R \ge T`, or :math:`(B, T, h)` or :math:`(1, T, h)`; :math:`2h \le D`.
        - positions :math:`(B, T)`, :math:`(1, T)` or :math:`(T)`.

    Dtypes: float64, float32, float16, bfloat16, the same for q and k; computed in float32 (float64 for float64). Tables are float32
    whatever the dtype of q, since in 16 bits they lose far positions; beside float64 they may be float64.

    Raises:
        TypeError: not floating point, two dtypes, tables or positions of another dtype.
        ValueError: shapes that do not fit, or tables that require grad.
        IndexError: on the CPU, a position that is no row of the tables.
        RuntimeError: two devices, or the chosen backend cannot serve the device.

    Source: Su et al., RoFormer: Enhanced Transformer with Rotary Position Embedding, 2021.

    Equivalent to:
        >>> c, s = (torch.cat([table, table], -1)[: q.shape[1], None] for table in (cos, sin))
        >>> rotate_half = lambda x: torch.cat([-x.chunk(2, -1)[1], x.chunk(2, -1)[0]], -1)
        >>> q * c + rotate_half(q) * s, k * c + rotate_half(k) * s  # 2h = D
    """
    return _rotary(q, k, cos, sin, positions, interleaved, heads_first)
