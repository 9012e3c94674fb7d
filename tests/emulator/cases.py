"""Calls of every op, small and odd, to run on the emulator."""

import harness
import pytest
import torch
from pylayers import functional, reference


def _over_last(rms_norm):
    return lambda x, weight: rms_norm(x, weight.shape, weight, 1e-6)


def _of_a_stream(add_norm):
    return lambda x, residual, weight, *bias: add_norm(x, residual, weight.shape, weight, *bias, eps=1e-5)


def _layer_norm(layer_norm):
    return lambda x, weight, bias: layer_norm(x, weight.shape, weight, bias, 1e-5)


def _of_groups(group_norm):
    return lambda x, weight, bias: group_norm(x, 3, weight, bias, activation="silu")


def _with_channels_last(group_norm):
    return lambda x, weight, bias: group_norm(x.movedim(-1, 1), 2, weight, bias, 1e-5)


def _over_first(softmax):
    return lambda x: softmax(x, 0)


def _of_attention(scaled_masked_softmax):
    return lambda x: scaled_masked_softmax(x, torch.arange(x.shape[-1]) % 3 > 0, 0.5, True)


def _of_classes(cross_entropy):
    target = torch.tensor([3, -100, 66, 0, 12])
    return lambda x: cross_entropy(x, target, label_smoothing=0.1, z_loss=0.01)


def _of_probabilities(cross_entropy):
    return lambda x, target: cross_entropy(x, target.detach().abs(), reduction="none", softcap=2.0) + target.sum() * 0


def _of_answers(binary_cross_entropy):
    return lambda x, weight: binary_cross_entropy(x, x.detach().sigmoid(), weight.detach().abs(), pos_weight=weight.detach().abs() + 1) + weight.sum() * 0


def _of_each(kl_div):
    return lambda x, target: kl_div(x, target.abs(), reduction="none")


def _with_gelu(linear):
    return lambda x, weight, bias: linear(x, weight, bias, activation="gelu")


def _scaled(linear):
    return lambda x, weight, bias: linear(x, weight, bias, activation="tanh", scale=0.5)


def _symmetric(tensor_reduction):
    return lambda x, weight: tensor_reduction(x, weight, symmetric=True)


def _rotary(rotary):
    angles = torch.arange(5)[:, None] * torch.tensor([1.0, 0.5, 0.1])
    return lambda q, k: rotary(q, k, angles.cos(), angles.sin(), interleaved=True)


def _of_one_mask(dropout_add):
    return lambda x, residual: dropout_add(x, residual, 0.3, generator=harness.seeded(seed=5))


CALLS = {
    "rms_norm": (_over_last(functional.rms_norm), _over_last(reference.rms_norm), [(5, 67), (67,)]),
    "rms_norm wide": (_over_last(functional.rms_norm), _over_last(reference.rms_norm), [(3, 1024), (1024,)]),
    "layer_norm": (_layer_norm(functional.layer_norm), _layer_norm(reference.layer_norm), [(5, 67), (67,), (67,)]),
    "add_rms_norm": (
        _of_a_stream(functional.add_rms_norm),
        _of_a_stream(reference.add_rms_norm),
        [(5, 67), (5, 67), (67,)],
    ),
    "add_layer_norm": (
        _of_a_stream(functional.add_layer_norm),
        _of_a_stream(reference.add_layer_norm),
        [(3, 1024), (3, 1024), (1024,), (1024,)],
    ),
    "group_norm": (_of_groups(functional.group_norm), _of_groups(reference.group_norm), [(2, 9, 37), (9,), (9,)]),
    "group_norm of long groups": (_of_groups(functional.group_norm), _of_groups(reference.group_norm), [(1, 6, 9000), (6,), (6,)]),
    "group_norm channels last": (
        _with_channels_last(functional.group_norm),
        _with_channels_last(reference.group_norm),
        [(2, 11, 7, 24), (24,), (24,)],
    ),
    "swiglu": (functional.swiglu, reference.swiglu, [(5, 67), (5, 67)]),
    "swiglu_packed": (functional.swiglu_packed, reference.swiglu_packed, [(3, 64)]),
    "geglu": (functional.geglu, reference.geglu, [(5, 67), (5, 67)]),
    "relu_squared": (functional.relu_squared, reference.relu_squared, [(5, 67)]),
    "softmax": (lambda x: functional.softmax(x, 1), lambda x: reference.softmax(x, 1), [(5, 67)]),
    "log_softmax over columns": (_over_first(functional.log_softmax), _over_first(reference.log_softmax), [(37, 19)]),
    "scaled_masked_softmax": (
        _of_attention(functional.scaled_masked_softmax),
        _of_attention(reference.scaled_masked_softmax),
        [(3, 7, 33)],
    ),
    "cross_entropy": (_of_classes(functional.cross_entropy), _of_classes(reference.cross_entropy), [(5, 67)]),
    "cross_entropy of probabilities": (
        _of_probabilities(functional.cross_entropy),
        _of_probabilities(reference.cross_entropy),
        [(3, 1024), (3, 1024)],
    ),
    "mse_loss": (functional.mse_loss, reference.mse_loss, [(5, 67), (5, 67)]),
    "binary_cross_entropy_with_logits": (
        _of_answers(functional.binary_cross_entropy_with_logits),
        _of_answers(reference.binary_cross_entropy_with_logits),
        [(37, 24), (24,)],
    ),
    "kl_div": (_of_each(functional.kl_div), _of_each(reference.kl_div), [(3, 1024), (3, 1024)]),
    "bilinear": (functional.bilinear, reference.bilinear, [(5, 9), (5, 17), (35, 9, 17), (35,)]),
    "tensor_reduction": (_symmetric(functional.tensor_reduction), _symmetric(reference.tensor_reduction), [(5, 17), (16, 153)]),
    "linear": (_with_gelu(functional.linear), _with_gelu(reference.linear), [(5, 17), (9, 17), (9,)]),
    "linear with a scale": (_scaled(functional.linear), _scaled(reference.linear), [(5, 17), (9, 17), (9,)]),
    "rotary": (_rotary(functional.rotary), _rotary(reference.rotary), [(5, 3, 7), (5, 1, 7)]),
    "dropout_add": (_of_one_mask(functional.dropout_add), _of_one_mask(reference.dropout_add), [(5, 67), (5, 67)]),
    "leading_fourier": (functional.leading_fourier, reference.leading_fourier, [(5, 66)]),
}

every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])


def holds(call: tuple, dtype: torch.dtype, backend: str) -> None:
    function, definition, sizes = call
    inputs = tuple(harness.normal(*size, dtype=dtype, seed=seed) for seed, size in enumerate(sizes))
    harness.matches_float64(function, definition, inputs, backend)
