import torch

from .dtypes import accumulation_dtype


def cross_entropy(
    input, target, weight=None, reduction="mean", ignore_index=-100, label_smoothing=0.0, z_loss=0.0, softcap=None, dtype=None
):
    dims = input.dim()
    z = (input if dims == 1 else input.movedim(1, -1)).to(accumulation_dtype(input.dtype))
    z = z if softcap is None else softcap * torch.tanh(z / softcap)
    w = z.new_ones(z.shape[-1]) if weight is None else weight.to(z.dtype)
    if target.is_floating_point():
        q, share, live = target if dims == 1 else target.movedim(1, -1), torch.ones_like(z[..., 0]), None
    else:
        live = target != ignore_index
        z = z.masked_fill(~live.unsqueeze(-1), 0)  # not read
        t = torch.where(live, target, 0)
        q, share = torch.nn.functional.one_hot(t, z.shape[-1]), torch.where(live, w[t], 0)
    unasked = None if live is None or label_smoothing else q == 0
    q = (q.to(z.dtype) * (1 - label_smoothing) + label_smoothing / z.shape[-1]) * w
    terms = -torch.log_softmax(z, -1) * q
    terms = terms if unasked is None else terms.masked_fill(unasked, 0)
    loss = terms.sum(-1) + z_loss * torch.logsumexp(z, -1).square()
    loss = loss if live is None else torch.where(live, loss, 0)
    if reduction != "none":
        loss = loss.sum() / share.sum() if reduction == "mean" else loss.sum()
    return loss.to(input.dtype if dtype is None else dtype)
