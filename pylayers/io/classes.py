"""The classes and functions that files may name without being registered: torch.nn's layers and the common activations."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from ..init import INITIALISERS

# They keep their arguments in attributes of the same name.
_PLAIN = """
    Sequential ModuleList ModuleDict Flatten Unflatten
    Linear Bilinear LazyLinear Embedding EmbeddingBag
    Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d
    LazyConv1d LazyConv2d LazyConv3d LazyConvTranspose1d LazyConvTranspose2d LazyConvTranspose3d
    BatchNorm1d BatchNorm2d BatchNorm3d LazyBatchNorm1d LazyBatchNorm2d LazyBatchNorm3d
    InstanceNorm1d InstanceNorm2d InstanceNorm3d LazyInstanceNorm1d LazyInstanceNorm2d LazyInstanceNorm3d
    LayerNorm GroupNorm RMSNorm LocalResponseNorm
    MaxPool1d MaxPool2d MaxPool3d AvgPool1d AvgPool2d AvgPool3d LPPool1d LPPool2d LPPool3d
    AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveAvgPool3d AdaptiveMaxPool1d AdaptiveMaxPool2d AdaptiveMaxPool3d
    MaxUnpool1d MaxUnpool2d MaxUnpool3d
    ReflectionPad1d ReflectionPad2d ReflectionPad3d ReplicationPad1d ReplicationPad2d ReplicationPad3d
    ZeroPad1d ZeroPad2d ZeroPad3d ConstantPad1d ConstantPad2d ConstantPad3d CircularPad1d CircularPad2d CircularPad3d
    Fold Unfold PixelShuffle PixelUnshuffle ChannelShuffle Upsample UpsamplingNearest2d UpsamplingBilinear2d
    Dropout Dropout1d Dropout2d Dropout3d AlphaDropout FeatureAlphaDropout
    ReLU ReLU6 LeakyReLU PReLU RReLU ELU CELU SELU GELU GLU SiLU Mish Sigmoid LogSigmoid Hardsigmoid Hardswish Hardshrink
    Softshrink Tanh Tanhshrink Softplus Softsign Softmin Softmax Softmax2d LogSoftmax Threshold
    CosineSimilarity RNNCell LSTMCell GRUCell
""".split()

_RNN = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional")


def _rnn(*more: str) -> Callable[[nn.Module], dict]:
    return lambda module: {name: getattr(module, name) for name in (*_RNN, *more)}


def _attention(module: nn.MultiheadAttention) -> dict:
    kept = ("embed_dim", "num_heads", "dropout", "add_zero_attn", "kdim", "vdim", "batch_first")
    return {
        **{name: getattr(module, name) for name in kept},
        "bias": module.in_proj_bias is not None,
        "add_bias_kv": module.bias_k is not None,
    }


def _encoder_layer(module: nn.TransformerEncoderLayer) -> dict:
    return {
        "d_model": module.self_attn.embed_dim,
        "nhead": module.self_attn.num_heads,
        "dim_feedforward": module.linear1.out_features,
        "dropout": module.dropout.p,
        "activation": module.activation,
        "layer_norm_eps": module.norm1.eps,
        "batch_first": module.self_attn.batch_first,
        "norm_first": module.norm_first,
        "bias": module.linear1.bias is not None,
    }


# A parameter list or dict is built from its own parameters.
_SPECIAL: dict[type, Callable[[Any], dict] | None] = {
    nn.Identity: lambda module: {},
    nn.Hardtanh: lambda module: {name: getattr(module, name) for name in ("min_val", "max_val", "inplace")},
    nn.PairwiseDistance: lambda module: {"p": module.norm, "eps": module.eps, "keepdim": module.keepdim},
    nn.ParameterList: lambda module: {"values": list(module)},
    nn.ParameterDict: lambda module: {"parameters": dict(module.items())},
    nn.RNN: _rnn("nonlinearity"),
    nn.LSTM: _rnn("proj_size"),
    nn.GRU: _rnn(),
    nn.MultiheadAttention: _attention,
    NonDynamicallyQuantizableLinear: None,
    nn.TransformerEncoderLayer: _encoder_layer,
    nn.TransformerDecoderLayer: _encoder_layer,
}


def gated_mlp(module: nn.Module) -> dict:
    return {
        "in_features": module.gate_proj.in_features,
        "hidden_features": module.gate_proj.out_features,
        "out_features": module.down_proj.out_features,
        "bias": module.gate_proj.bias is not None,
        "activation": module.activation,
        "weight_init": module.gate_proj.weight_init,
        "bias_init": module.gate_proj.bias_init,
    }


def lazy_gated_mlp(module: nn.Module) -> dict:
    known = {name: value for name, value in gated_mlp(module).items() if name != "in_features"}
    return {**known, "out_features": known["out_features"] or None}


# Ours that do not keep their arguments, by name.
OWN: dict[str, Callable[[Any], dict]] = {"GatedMLP": gated_mlp, "LazyGatedMLP": lazy_gated_mlp}


def classes() -> Iterator[tuple[type, Callable | None]]:
    for name in _PLAIN:
        yield getattr(nn, name), None
    yield from _SPECIAL.items()


def functions() -> Iterator[tuple[str, Callable]]:
    for name in ("relu", "gelu", "silu", "mish", "elu", "leaky_relu", "softplus", "hardswish", "softmax", "log_softmax"):
        yield f"torch.nn.functional.{name}", getattr(F, name)
    for name in ("relu", "tanh", "sigmoid"):
        yield f"torch.{name}", getattr(torch, name)
    for name, function in INITIALISERS.items():
        yield f"init.{name}", function
