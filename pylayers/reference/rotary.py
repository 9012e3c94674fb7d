import torch

from .dtypes import accumulation_dtype


def rotary(q, k, cos, sin, positions=None, interleaved=False, heads_first=False):
    if positions is not None:
        known = positions.long().clamp(0, cos.shape[0] - 1)
        cos, sin = (one[known].masked_fill((known != positions)[..., None], torch.nan) for one in (cos, sin))
    elif cos.dim() == 2:
        cos, sin = (one[: q.shape[-2 if heads_first else -3]] for one in (cos, sin))
    cos, sin = (one.to(accumulation_dtype(q.dtype)).unsqueeze(-3 if heads_first else -2) for one in (cos, sin))
    return tuple(_rotated(x, cos, sin, interleaved) for x in (q, k))


def _rotated(x, cos, sin, interleaved):
    half = cos.shape[-1]
    head, tail = x[..., : 2 * half].to(cos.dtype), x[..., 2 * half :]
    a, b = (head[..., 0::2], head[..., 1::2]) if interleaved else (head[..., :half], head[..., half:])
    pair = a * cos - b * sin, b * cos + a * sin
    head = torch.stack(pair, -1).flatten(-2) if interleaved else torch.cat(pair, -1)
    return torch.cat([head.to(x.dtype), tail], -1)
