"""A small LLaMA-style language model over bytes, or pairs of them, and what its training costs with one set of layers or another.

The model takes its layer classes as arguments, so that torch.nn's layers and ours meet in the very same code. It
learns the source code of Python's standard library, which every machine has.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pylayers


class PlainGatedMLP(nn.Module):
    """down(silu(gate(x)) · up(x)) as one writes it on torch.nn."""

    def __init__(self, in_features: int, hidden_features: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(in_features, hidden_features, bias=False)
        self.up_proj = nn.Linear(in_features, hidden_features, bias=False)
        self.down_proj = nn.Linear(hidden_features, in_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class PlainAddRMSNorm(nn.RMSNorm):
    """Adds to a residual stream and normalises the sum as one writes it on torch.nn."""

    def forward(self, input: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        residual = input + residual
        return super().forward(residual), residual


class AddThenRMSNorm(pylayers.RMSNorm):
    """The same with our norm: what AddRMSNorm is measured against."""

    def forward(self, input: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        residual = input + residual
        return super().forward(residual), residual


class PlainRotary(nn.Module):
    """Rotary positions as one writes them: turns each pair (i, i + dim / 2) of [batch, tokens, heads, dim] by its angle."""

    cos: Tensor
    sin: Tensor

    def __init__(self, dim: int, max_positions: int) -> None:
        super().__init__()
        angle = torch.arange(max_positions)[:, None] * 10000.0 ** (-torch.arange(0, dim, 2) / dim)
        self.register_buffer("cos", angle.cos()[:, None], persistent=False)
        self.register_buffer("sin", angle.sin()[:, None], persistent=False)

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = self.cos[: q.shape[1]], self.sin[: q.shape[1]]
        return self.turned(q, cos, sin), self.turned(k, cos, sin)

    @staticmethod
    def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


class LossOfLogits(nn.Module):
    """A linear map and its cross entropy as one writes them: the matrix of logits exists, and so do others of its size."""

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, num_classes, bias=False)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(self.linear(input).float(), target)


@dataclass(frozen=True)
class Layers:
    """The classes that a model is built of."""

    rms_norm: Callable[..., nn.Module]
    add_rms_norm: Callable[..., nn.Module]
    linear: Callable[..., nn.Module]
    gated_mlp: Callable[..., nn.Module]
    rotary: Callable[..., nn.Module]
    loss: Callable[..., nn.Module]  # (dim, vocab), with the linear map that gives the logits


TORCH = Layers(nn.RMSNorm, PlainAddRMSNorm, nn.Linear, PlainGatedMLP, PlainRotary, LossOfLogits)
OURS = Layers(
    pylayers.RMSNorm, pylayers.AddRMSNorm, pylayers.Linear, pylayers.GatedMLP, pylayers.RotaryEmbedding, pylayers.LinearCrossEntropyLoss
)
# Ours without the fused residual stream, rotation and loss.
UNFUSED = Layers(pylayers.RMSNorm, AddThenRMSNorm, pylayers.Linear, pylayers.GatedMLP, PlainRotary, LossOfLogits)


@dataclass(frozen=True)
class Config:
    dim: int = 192
    hidden: int = 512
    heads: int = 6
    blocks: int = 3
    tokens: int = 256
    batch: int = 8
    steps: int = 150
    lr: float = 2e-3
    seed: int = 0
    bytes_per_token: int = 1

    @property
    def vocab(self) -> int:
        return 256**self.bytes_per_token

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads


QUICK = Config(dim=64, hidden=176, heads=2, blocks=1, tokens=128, batch=4, steps=30, lr=4e-3)
GPU = Config(dim=1024, hidden=2816, heads=16, blocks=8, tokens=1024, batch=16, steps=300, lr=6e-4)


class Attention(nn.Module):
    def __init__(self, config: Config, layers: Layers, rotary: nn.Module) -> None:
        super().__init__()
        self.heads = config.heads
        self.rotary = rotary
        self.q_proj = layers.linear(config.dim, config.dim, bias=False)
        self.k_proj = layers.linear(config.dim, config.dim, bias=False)
        self.v_proj = layers.linear(config.dim, config.dim, bias=False)
        self.o_proj = layers.linear(config.dim, config.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (proj(x).unflatten(-1, (self.heads, -1)) for proj in (self.q_proj, self.k_proj, self.v_proj))
        q, k, v = (each.transpose(1, 2) for each in (*self.rotary(q, k), v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(y.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Takes the residual stream with its norm, and returns both: the norm behind the block is a part of it."""

    def __init__(self, config: Config, layers: Layers, rotary: nn.Module) -> None:
        super().__init__()
        self.attention = Attention(config, layers, rotary)
        self.mlp_norm = layers.add_rms_norm(config.dim, eps=1e-5)
        self.mlp = layers.gated_mlp(config.dim, config.hidden)
        self.norm = layers.add_rms_norm(config.dim, eps=1e-5)

    def forward(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        x, residual = self.mlp_norm(self.attention(x), residual)
        return self.norm(self.mlp(x), residual)


class LanguageModel(nn.Module):
    """Tokens [batch, tokens] → scores of the next token [batch, tokens, vocab], or with `following` the loss of these."""

    def __init__(self, config: Config, layers: Layers) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocab, config.dim)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.norm = layers.rms_norm(config.dim, eps=1e-5)
        rotary = layers.rotary(config.head_dim, config.tokens)  # one for all blocks
        self.blocks = nn.ModuleList(Block(config, layers, rotary) for _ in range(config.blocks))
        self.loss = layers.loss(config.dim, config.vocab)

    def forward(self, tokens: Tensor, following: Tensor | None = None) -> Tensor:
        residual = self.embedding(tokens)
        x = self.norm(residual)
        for block in self.blocks:
            x, residual = block(x, residual)
        return self.loss.linear(x) if following is None else self.loss(x.flatten(0, 1), following.flatten())


def build(config: Config, layers: Layers, device: torch.device) -> LanguageModel:
    """The same seed gives the same weights, whatever the layers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return LanguageModel(config, layers).to(device)


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def standard_library() -> tuple[Tensor, Tensor]:
    """The top-level modules of the standard library as bytes: for training, and every tenth file held out."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"), key=lambda file: file.name)
    held_out = b"".join(file.read_bytes() for file in files[9::10])
    training = b"".join(file.read_bytes() for index, file in enumerate(files) if index % 10 != 9)
    return tuple(torch.frombuffer(bytearray(text), dtype=torch.uint8).long() for text in (training, held_out))


def as_tokens(text: Tensor, config: Config) -> Tensor:
    """Neighbouring bytes as one number; those that are too few for one are left out."""
    size = config.bytes_per_token
    digits = text[: len(text) // size * size].view(-1, size)
    return (digits * 256 ** torch.arange(size, device=text.device)).sum(-1)


def batches(text: Tensor, config: Config, count: int, device: torch.device, seed: int) -> Iterator[Tensor]:
    """Random windows [batch, tokens + 1]: what goes in, and the token that follows each."""
    generator, text = torch.Generator().manual_seed(seed), as_tokens(text, config)
    window = torch.arange(config.tokens + 1)
    for _ in range(count):
        start = torch.randint(len(text) - config.tokens, (config.batch, 1), generator=generator)
        yield text[start + window].to(device)


class Trainer:
    """One model with its optimiser. `bfloat16` computes under autocast; weights stay float32. `spread` puts it on several processes."""

    def __init__(self, config: Config, layers: Layers, device: torch.device, *, compiled=False, bfloat16=False,
                 spread: Callable[[nn.Module], nn.Module] = lambda model: model) -> None:  # fmt: skip
        self.config, self.device = config, device
        self.model = spread(build(config, layers, device))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=config.lr, weight_decay=0.1, fused=True)
        self.losses: list[float] = []
        self.done = 0  # steps, with those before a checkpoint
        self._forward = torch.compile(self.model, fullgraph=True, dynamic=False) if compiled else self.model
        self._autocast = lambda: torch.autocast(device.type, torch.bfloat16, enabled=bfloat16)

    def step(self, windows: Tensor) -> float:
        warm_up = min(1.0, (self.done + 1) / max(1, self.config.steps // 10))
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * warm_up
        loss = self._loss(self._forward, windows)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.done += 1
        self.losses.append(loss.item())
        return self.losses[-1]

    @torch.no_grad()
    def held_out_loss(self, text: Tensor, count: int = 8) -> float:
        windows = batches(text, self.config, count, self.device, seed=1)
        return sum(self._loss(self.model, each).item() for each in windows) / count

    def _loss(self, forward: Callable[[Tensor, Tensor], Tensor], windows: Tensor) -> Tensor:
        with self._autocast():
            return forward(windows[:, :-1], windows[:, 1:])

    @torch.no_grad()
    def generate(self, prompt: bytes, length: int, temperature: float = 0.7) -> bytes:
        generator = torch.Generator(self.device).manual_seed(0)
        size = self.config.bytes_per_token
        text = as_tokens(torch.tensor(list(prompt), device=self.device), self.config)[None]
        for _ in range(length // size):
            scores = self.model(text[:, -self.config.tokens :])[:, -1].float()
            following = torch.multinomial((scores / temperature).softmax(-1), 1, generator=generator)
            text = torch.cat((text, following), dim=1)
        return b"".join(token.to_bytes(size, "little") for token in text[0].tolist())
