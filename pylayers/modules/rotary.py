from __future__ import annotations

import threading
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .. import functional
from ..reference.dtypes import accumulation_dtype
from .rotary_frequencies import Frequencies

_TABLES_CHANGE = threading.RLock()  # one for all layers: a lock of its own could not be pickled


class RotaryEmbedding(nn.Module):
    r"""Rotary position embedding of queries and keys. One module serves all layers of a model.

    .. math:: a' = a \cos t\theta_i - b \sin t\theta_i, \quad b' = b \cos t\theta_i + a \sin t\theta_i, \quad
              \theta_i = \text{base}^{-2i/\text{dim}}, \quad i = 0, \ldots, \text{dim}/2 - 1

    for the token at position t and each pair :math:`(a, b)` of the first `dim` features of a head; the others are copied.

    The tables are computed in float64 and kept in float32, in float64 after `.double()`: `.half()` and `.bfloat16()` leave them
    as precise as they are. Like `inv_freq` in transformers they are buffers that are not saved; the state_dict is empty, and
    loading one makes the tables anew. An `inv_freq` in an older checkpoint is compared and not kept.

    **Longer sequences.** The tables have `max_positions` rows. A call with more tokens, or `length=`, makes them longer, at least
    twice as long: sizes are known without waiting for a GPU. Given `positions` are not looked at, so a position behind the tables
    raises on the CPU and gives NaN on a GPU, see `pylayers.functional.rotary`; say `length=`, or call `reserve` before. Under
    torch.compile and while a CUDA graph is captured, a longer sequence gets tables of its own, which are not kept, and a table
    that was replaced lives on, since a graph may read it.

    Args:
        dim: the number of rotated features, even; less than head_dim for a partial rotation.
        max_positions: rows of the tables; `max_position_embeddings` in the formulas of the scaling.
        base: of the frequencies, `rope_theta`.
        interleaved: pairs :math:`(x_{2i}, x_{2i+1})` instead of :math:`(x_i, x_{i+dim/2})`.
        heads_first: q and k are (batch, heads, tokens, head_dim) instead of (batch, tokens, heads, head_dim).
        scaling: how frequencies change for longer sequences, as transformers has it in `rope_scaling` or `rope_parameters`, with the
            same names and numbers: a dict with `rope_type` "default", "linear", "dynamic" (NTK), "llama3" or "yarn" and its
            parameters. With "dynamic" the frequencies of a call are those of its own length, of the tokens or `length=`, whatever
            came before.
        device, dtype: of the tables; a dtype of 16 bits means float32.

    Shape:
        - forward(q, k, positions=None, \*, length=None): q :math:`(B, T, H, D)`, k :math:`(B, T, H_k, D)`, or without B; with
          `heads_first` :math:`(B, H, T, D)` and so on. Outputs have the shapes of q and k.
        - positions :math:`(B, T)`, :math:`(1, T)` or :math:`(T)`, 0 to T − 1 if left out.
        - length: how long the sequence is by now, an int: more than every position.

    Dtypes, errors: see `pylayers.functional.rotary`.

    Source: Su et al., RoFormer, 2021. Scaling: Chen et al., Extending Context Window of Large Language Models via Positional
    Interpolation, 2023; Peng et al., YaRN, 2023; Llama 3.1.

    Equivalent to:
        >>> angles = torch.arange(q.shape[1])[:, None] * base ** (-torch.arange(0, dim, 2) / dim)
        >>> pylayers.functional.rotary(q, k, angles.cos(), angles.sin())
    """

    __constants__ = ["dim", "max_positions", "base", "interleaved", "heads_first"]
    inv_freq: Tensor
    cos: Tensor
    sin: Tensor

    def __init__(
        self,
        dim: int,
        max_positions: int = 2048,
        base: float = 10000.0,
        *,
        interleaved: bool = False,
        heads_first: bool = False,
        scaling: Mapping | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if dim < 2 or dim % 2:
            raise ValueError(f"RotaryEmbedding: dim must be even and positive (pairs of features turn), got {dim}")
        if max_positions < 1:
            raise ValueError(f"RotaryEmbedding: max_positions must be positive, got {max_positions}")
        self.dim = dim
        self.max_positions = max_positions
        self.base = base
        self.interleaved = interleaved
        self.heads_first = heads_first
        self.scaling = dict(scaling or {})
        self.frequencies = Frequencies(dim, base, max_positions, self.scaling)
        self._outgrown: list[tuple[Tensor, Tensor]] = []
        for name in ("inv_freq", "cos", "sin"):
            self.register_buffer(name, None, persistent=False)
        like = torch.empty(0, device=device, dtype=dtype)
        self._make(max_positions, like.device, like.dtype)

    def _make(self, rows: int, device: torch.device, dtype: torch.dtype) -> None:
        # Tensors of inference mode could not be saved for a backward later.
        with torch.inference_mode(False), torch.no_grad():
            dtype = accumulation_dtype(dtype)
            self.inv_freq = self.frequencies.of(device).to(dtype)
            self.cos, self.sin = self.frequencies.tables(torch.arange(rows, device=device), dtype)

    def reset_parameters(self) -> None:
        """Computes the tables, which are all that there is."""
        self._make(self.cos.shape[0], self.cos.device, self.cos.dtype)

    def reserve(self, length: int) -> None:
        """Makes the tables at least `length` rows long, and never shorter."""
        with _TABLES_CHANGE:
            if length <= self.cos.shape[0]:
                return
            if self.cos.is_cuda:
                self._outgrown.append((self.cos, self.sin))
            self._make(max(length, 2 * self.cos.shape[0]), self.cos.device, self.cos.dtype)

    def forward(self, q: Tensor, k: Tensor, positions: Tensor | None = None, *, length: int | None = None) -> tuple[Tensor, Tensor]:
        tokens = self._tokens(q)
        if length is None and positions is None:
            length = tokens
        if self.frequencies.kind == "dynamic" and length is not None and length > self.max_positions:
            at = torch.arange(tokens, device=self.cos.device) if positions is None else positions
            cos, sin = self.frequencies.tables(at, accumulation_dtype(self.cos.dtype), length)
            positions = None
        else:
            cos, sin = self._tables(length or 0)
        return functional.rotary(
            q, k, cos, sin, interleaved=self.interleaved, heads_first=self.heads_first, positions=positions
        )

    def _tokens(self, q: Tensor) -> int:
        """0 for what is no such tensor: the op says what is wrong with it."""
        known = isinstance(q, Tensor) and q.dim() > 2
        return q.shape[-2 if self.heads_first else -3] if known else 0

    def _tables(self, length: int) -> tuple[Tensor, Tensor]:
        """Of at least so many rows."""
        cos, sin = self.cos, self.sin
        dtype = accumulation_dtype(cos.dtype)
        # Of two lengths: another thread is about to make them longer.
        if length <= cos.shape[0] == sin.shape[0] and cos.dtype == dtype:
            return cos, sin
        if torch.compiler.is_compiling() or (cos.is_cuda and torch.cuda.is_current_stream_capturing()):
            rows = torch.arange(max(length, cos.shape[0]), device=cos.device)
            return self.frequencies.tables(rows, dtype)
        with _TABLES_CHANGE:
            if self.cos.dtype != dtype:  # cast by somebody who does not call .to()
                self.reset_parameters()
            self.reserve(length)
            return self.cos, self.sin

    def _apply(self, fn, recurse=True):
        before = self.cos
        super()._apply(fn, recurse)
        if (self.cos.dtype, self.cos.device) != (before.dtype, before.device):
            self.reset_parameters()
        return self

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs):
        stored = state_dict.pop(f"{prefix}inv_freq", None)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        if not self.cos.is_meta:
            self.reset_parameters()
            own = self.inv_freq
            if stored is not None and not (stored.shape == own.shape and torch.allclose(stored.to(own), own, rtol=0.01, atol=0)):
                error_msgs.append(f"RotaryEmbedding: {prefix}inv_freq must be the frequencies of {self.extra_repr()}; it has others")

    def extra_repr(self) -> str:
        text = f"{self.dim}, max_positions={self.max_positions}, base={self.base}, interleaved={self.interleaved}"
        text += ", heads_first=True" if self.heads_first else ""
        return text + (f", scaling={self.scaling}" if self.scaling else "")
