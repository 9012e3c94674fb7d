"""Continues a text with a GPT-2 on our layers, of a checkpoint as it is published: safetensors and the tokeniser's files.

    python examples/generate.py --checkpoint gpt2 --prompt "The theorem says"
    python examples/generate.py --checkpoint gpt2 --prompt "The theorem says" --temperature 0.8 --top-k 40 --seed 1
"""

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import ByteLevelBPETokenizer, Tokenizer
from torch import Tensor, nn

import pylayers

# Names in the checkpoint, without "transformer.h.0."; these weights are stored as (in, out).
TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu", "relu": "relu", "silu": "silu"}


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.c_attn, self.c_proj = pylayers.Linear(dim, 3 * dim), pylayers.Linear(dim, dim)

    def forward(self, x: Tensor, cache: list[Tensor]) -> Tensor:
        """Keys and values of earlier tokens are in the cache, and those of x are when it returns."""
        q, k, v = (one.unflatten(-1, (self.heads, -1)).transpose(1, 2) for one in self.c_attn(x).chunk(3, -1))
        if cache:
            k, v = torch.cat([cache[0], k], 2), torch.cat([cache[1], v], 2)
        cache[:] = k, v
        y = F.scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] > 1)
        return self.c_proj(y.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, hidden: int, eps: float, activation: str):
        super().__init__()
        self.attn, self.ln_2 = Attention(dim, heads), pylayers.AddLayerNorm(dim, eps)
        self.mlp = nn.ModuleDict({"c_fc": pylayers.Linear(dim, hidden, activation=activation), "c_proj": pylayers.Linear(hidden, dim)})

    def forward(self, x: Tensor, residual: Tensor, cache: list[Tensor]) -> tuple[Tensor, Tensor]:
        """What is to be added to the residual stream, and the stream."""
        x, residual = self.ln_2(self.attn(x, cache), residual)
        return self.mlp["c_proj"](self.mlp["c_fc"](x)), residual


class GPT2(nn.Module):
    """Additions to the residual stream and the norms behind them are one layer each."""

    def __init__(self, config: dict):
        super().__init__()
        dim, eps = config["n_embd"], config["layer_norm_epsilon"]
        activation = ACTIVATIONS[config.get("activation_function", "gelu_new")]
        self.positions = config["n_positions"]
        self.wte, self.wpe = nn.Embedding(config["vocab_size"], dim), nn.Embedding(self.positions, dim)
        self.ln_1 = pylayers.LayerNorm(dim, eps)  # of the first block; those of the others follow an addition
        hidden = config.get("n_inner") or 4 * dim
        self.h = nn.ModuleList(Block(dim, config["n_head"], hidden, eps, activation) for _ in range(config["n_layer"]))
        self.norms = nn.ModuleList(pylayers.AddLayerNorm(dim, eps) for _ in self.h)

    def forward(self, tokens: Tensor, caches: list[list[Tensor]]) -> Tensor:
        """Logits (batch, vocabulary) of the token after the last."""
        past = caches[0][0].shape[2] if caches[0] else 0
        residual = self.wte(tokens) + self.wpe(torch.arange(past, past + tokens.shape[1], device=tokens.device))
        x = self.ln_1(residual)
        for block, norm, cache in zip(self.h, self.norms, caches, strict=True):
            x, residual = block(x, residual, cache)
            x, residual = norm(x, residual)
        return pylayers.functional.linear(x[:, -1], self.wte.weight)

    @torch.no_grad()
    def generate(self, tokens: list[int], count: int, temperature: float = 0.0, top_k: int = 0, end: int | None = None) -> list[int]:
        """The tokens that follow: the most likely ones with temperature 0, else drawn from the `top_k` most likely, from all if 0."""
        device, caches, found = self.wte.weight.device, [[] for _ in self.h], []
        fed = torch.tensor([tokens], device=device)
        while len(found) < count and len(tokens) + len(found) <= self.positions:
            logits = self(fed, caches)[0].float()
            if temperature > 0:
                if top_k:
                    logits[logits < logits.topk(min(top_k, len(logits))).values[-1]] = -torch.inf
                token = int(torch.multinomial((logits / temperature).softmax(-1), 1))
            else:
                token = int(logits.argmax())
            if token == end:
                break
            found.append(token)
            fed = torch.tensor([[token]], device=device)
        return found


def load(folder: Path) -> GPT2:
    """A checkpoint of GPT-2 in the names of transformers or of the first release."""
    config = json.loads((folder / "config.json").read_text())
    weights = {name.removeprefix("transformer."): one for name, one in load_file(folder / "model.safetensors").items()}
    with torch.device("meta"):
        model = GPT2(config)
    last = config["n_layer"] - 1
    state = {}
    for name, one in weights.items():
        part = name.split(".", 2)
        if part[-1] in ("attn.bias", "attn.masked_bias") or name == "lm_head.weight":  # a mask, and the embedding once more
            continue
        if part[0] == "h" and part[2].startswith("ln_1."):
            index = int(part[1])
            name = part[2] if index == 0 else f"norms.{index - 1}.{part[2].removeprefix('ln_1.')}"
        elif part[0] == "ln_f":
            name = f"norms.{last}.{part[1]}"
        state[name] = one.t().contiguous() if part[-1] in TRANSPOSED else one
    model.load_state_dict(state, assign=True)
    return model.eval()


def tokenizer_of(folder: Path) -> Tokenizer | ByteLevelBPETokenizer:
    if (folder / "tokenizer.json").exists():
        return Tokenizer.from_file(str(folder / "tokenizer.json"))
    return ByteLevelBPETokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="a folder with config.json, model.safetensors and the tokeniser")
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--tokens", type=int, default=50, help="how many are to follow")
    parser.add_argument("--temperature", type=float, default=0.0, help="0: always the most likely token")
    parser.add_argument("--top-k", type=int, default=0, help="draw from the most likely ones alone")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    for name in ("config.json", "model.safetensors"):
        if not (args.checkpoint / name).exists():
            parser.error(f"{args.checkpoint} has no {name}: a folder with a GPT-2 as it is published is needed")
    torch.manual_seed(args.seed)
    model, tokenizer = load(args.checkpoint).to(args.device), tokenizer_of(args.checkpoint)
    tokens = tokenizer.encode(args.prompt).ids
    if not 0 < len(tokens) < model.positions:
        parser.error(f"the prompt has {len(tokens)} tokens, and must have between 1 and {model.positions - 1}")
    print(args.prompt + tokenizer.decode(model.generate(tokens, args.tokens, args.temperature, args.top_k)))


if __name__ == "__main__":
    main()
