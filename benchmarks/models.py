"""Models of other packages, with random weights, small enough to train on any machine: what `bench --model` converts and measures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn


@dataclass(frozen=True)
class Scale:
    """Widths of transformers and of what goes into them."""

    dim: int
    hidden: int
    layers: int
    heads: int
    vocabulary: int
    batch: int
    tokens: int
    images: int  # of a batch
    image: int  # pixels of a side
    patch: int
    frames: int  # of audio

    @property
    def text(self) -> dict[str, int]:
        """In the names of most configurations of transformers."""
        return dict(hidden_size=self.dim, intermediate_size=self.hidden, num_hidden_layers=self.layers, num_attention_heads=self.heads,
                    vocab_size=self.vocabulary, max_position_embeddings=4 * self.tokens)  # fmt: skip

    @property
    def vision(self) -> dict[str, int]:
        return dict(hidden_size=self.dim, intermediate_size=self.hidden, num_hidden_layers=self.layers, num_attention_heads=self.heads,
                    image_size=self.image, patch_size=self.patch)  # fmt: skip


TINY = Scale(dim=32, hidden=48, layers=2, heads=4, vocabulary=199, batch=2, tokens=12, images=2, image=16, patch=8, frames=24)
# A training step takes 0.3 to 3 s on a processor of two cores.
SMALL = Scale(dim=512, hidden=1408, layers=4, heads=8, vocabulary=32000, batch=4, tokens=256, images=4, image=224, patch=16, frames=600)

# The same where products take tens of times as long, as those of 16 bits on a processor without instructions for them.
NARROW = Scale(dim=256, hidden=704, layers=2, heads=4, vocabulary=4096, batch=4, tokens=32, images=1, image=112, patch=16, frames=100)


class Made(NamedTuple):
    model: nn.Module
    inputs: dict[str, Any]


def tokens(scale: Scale) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(1, scale.vocabulary, (scale.batch, scale.tokens), generator=generator)


def numbers(*sizes: int) -> torch.Tensor:
    """Pixels, or what a microphone heard."""
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(2))


def pixels(scale: Scale) -> torch.Tensor:
    return numbers(scale.images, 3, scale.image, scale.image)


def _of_transformers(config: str, model: str, sizes: dict[str, Any], inputs: dict[str, Any]) -> Made:
    import transformers

    return Made(getattr(transformers, model)(getattr(transformers, config)(**sizes)), inputs)


def _labelled(scale: Scale) -> dict[str, torch.Tensor]:
    return {"input_ids": tokens(scale), "labels": tokens(scale)}


Maker = Callable[[Scale], Made]
ENDS = dict(pad_token_id=0, bos_token_id=1, eos_token_id=2)


def _causal(family: str, **own: Any) -> Maker:
    """Of half as many keys and values as queries."""

    def make(scale: Scale) -> Made:
        sizes = {**scale.text, "num_key_value_heads": scale.heads // 2, **{name: one(scale) if callable(one) else one for name, one in own.items()}}
        config = "Gemma3TextConfig" if family == "Gemma3" else f"{family}Config"
        return _of_transformers(config, f"{family}ForCausalLM", sizes, _labelled(scale))

    return make


def _head_dim(scale: Scale) -> int:
    return scale.dim // scale.heads


def _window(scale: Scale) -> int:
    return scale.tokens * 2 // 3


def _gpt2(scale: Scale) -> Made:
    sizes = dict(n_embd=scale.dim, n_layer=scale.layers, n_head=scale.heads, n_positions=4 * scale.tokens, vocab_size=scale.vocabulary,
                 bos_token_id=1, eos_token_id=2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)  # fmt: skip
    return _of_transformers("GPT2Config", "GPT2LMHeadModel", sizes, _labelled(scale))


def _gpt2_small(scale: Scale) -> Made:
    """As published, with 124 million parameters; of the scale it has the number of tokens."""
    text = torch.randint(50257, (1, scale.tokens), generator=torch.Generator().manual_seed(1))
    return _of_transformers("GPT2Config", "GPT2LMHeadModel", dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0), {"input_ids": text, "labels": text})


def _bert(scale: Scale) -> Made:
    sizes = dict(scale.text, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return _of_transformers("BertConfig", "BertForMaskedLM", sizes, _labelled(scale))


def _modernbert(scale: Scale) -> Made:
    sizes = dict(scale.text, **ENDS, cls_token_id=1, sep_token_id=2)
    return _of_transformers("ModernBertConfig", "ModernBertForMaskedLM", sizes, _labelled(scale))


def _t5(scale: Scale) -> Made:
    sizes = dict(d_model=scale.dim, d_kv=_head_dim(scale), d_ff=scale.hidden, num_layers=scale.layers // 2 + 1, num_heads=scale.heads,
                 vocab_size=scale.vocabulary, feed_forward_proj="gated-gelu", dropout_rate=0.0, decoder_start_token_id=0)  # fmt: skip
    return _of_transformers("T5Config", "T5ForConditionalGeneration", sizes, _labelled(scale))


def _vit(scale: Scale) -> Made:
    sizes = dict(scale.vision, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    labels = torch.arange(scale.images) % 2
    return _of_transformers("ViTConfig", "ViTForImageClassification", sizes, {"pixel_values": pixels(scale), "labels": labels})


def _clip(scale: Scale) -> Made:
    sizes = dict(text_config={**scale.text, "eos_token_id": 2}, vision_config=scale.vision, projection_dim=scale.dim // 2)
    text = tokens(scale)[: scale.images]
    return _of_transformers("CLIPConfig", "CLIPModel", sizes, {"input_ids": text, "pixel_values": pixels(scale)[: len(text)], "return_loss": True})


def _whisper(scale: Scale) -> Made:
    sizes = dict(d_model=scale.dim, encoder_layers=scale.layers, decoder_layers=scale.layers, encoder_attention_heads=scale.heads,
                 decoder_attention_heads=scale.heads, encoder_ffn_dim=scale.hidden, decoder_ffn_dim=scale.hidden, vocab_size=scale.vocabulary,
                 num_mel_bins=16, max_source_positions=scale.frames // 2, max_target_positions=4 * scale.tokens, dropout=0.0, **ENDS,
                 decoder_start_token_id=1, suppress_tokens=None, begin_suppress_tokens=None)  # fmt: skip
    inputs = {"input_features": numbers(scale.batch, 16, scale.frames), "labels": tokens(scale)}
    return _of_transformers("WhisperConfig", "WhisperForConditionalGeneration", sizes, inputs)


def _unet(scale: Scale) -> Made:
    """The denoiser of a latent diffusion model."""
    from diffusers import UNet2DConditionModel

    side, dim = scale.image // 7 // 8 * 8 or 8, scale.dim // 2
    model = UNet2DConditionModel(
        sample_size=side, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(dim // 2, dim), norm_num_groups=dim // 8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=dim // 2, attention_head_dim=scale.heads,
    )  # fmt: skip
    inputs = {"sample": numbers(scale.images, 4, side, side), "timestep": torch.arange(scale.images) * 4 + 1}
    return Made(model, {**inputs, "encoder_hidden_states": numbers(scale.images, 3, dim // 2)})


def _of_timm(name: str, **options: Any) -> Maker:
    def make(scale: Scale) -> Made:
        import timm

        side = max(scale.image, 64)  # what its strides leave something of
        own = {"img_size": side, "depth": scale.layers} if "vit" in name else {}
        model = timm.create_model(name, num_classes=10, **own, **options)
        return Made(model, {"x": numbers(scale.images, 3, side, side)})

    return make


CAUSAL: dict[str, Maker] = {
    "llama": _causal("Llama"),
    "mistral": _causal("Mistral", head_dim=_head_dim),
    "qwen2": _causal("Qwen2", tie_word_embeddings=True),
    "qwen3": _causal("Qwen3", head_dim=_head_dim),
    "gemma2": _causal("Gemma2", head_dim=_head_dim, sliding_window=_window),
    "gemma3": _causal("Gemma3", head_dim=_head_dim, sliding_window=_window),
    "phi3": _causal("Phi3", **ENDS),
    "olmo2": _causal("Olmo2", **ENDS),
    "gpt2": _gpt2,
}
OTHERS: dict[str, Maker] = {
    "bert": _bert,
    "modernbert": _modernbert,
    "t5": _t5,
    "vit": _vit,
    "clip": _clip,
    "whisper": _whisper,
    "unet": _unet,
    "convnext": _of_timm("convnext_atto"),
    "timm vit": _of_timm("vit_tiny_patch16_224"),
}
MODELS = {**CAUSAL, **OTHERS}
PUBLISHED: dict[str, Maker] = {"gpt2-small": _gpt2_small}  # at the size that it has


def made(name: str, scale: Scale, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Made:
    """A model in training mode, the same each time, and what it is called with."""
    torch.manual_seed(0)
    found = {**MODELS, **PUBLISHED}[name](scale)
    inputs = {key: one.to(device, dtype if one.is_floating_point() else one.dtype) if isinstance(one, torch.Tensor) else one
              for key, one in found.inputs.items()}  # fmt: skip
    return Made(found.model.to(device, dtype).train(), inputs)
