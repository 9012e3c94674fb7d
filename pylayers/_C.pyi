"""
Doors into the ops of pylayers, and the kernel table. Not public: use pylayers.functional and pylayers.backend.
"""
from __future__ import annotations
import collections.abc
import torch
import typing
__all__: list[str] = ['add_layer_norm', 'add_rms_norm', 'backends', 'bilinear', 'binary_cross_entropy_with_logits', 'center', 'centered_affine', 'cpu_capability', 'cross_entropy', 'dropout_add', 'emulate', 'geglu', 'geglu_packed', 'group_norm', 'halve_until', 'kernels', 'kl_div', 'layer_norm', 'leading_fourier', 'linear', 'linear_cross_entropy', 'linear_kl_div', 'log_softmax', 'mse_loss', 'observe', 'parallel_linear', 'poison_outputs', 'register_kernels', 'reglu', 'reglu_packed', 'relu_squared', 'rms_norm', 'rotary', 'scaled_masked_softmax', 'select', 'serve', 'softmax', 'swiglu', 'swiglu_packed', 'tensor_reduction']
def add_layer_norm(input: torch.Tensor, residual: torch.Tensor, normalized_shape: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], weight: torch.Tensor | None, bias: torch.Tensor | None, eps: typing.SupportsFloat | typing.SupportsIndex, residual_dtype: torch.dtype | None) -> tuple[torch.Tensor, torch.Tensor]:
    ...
def add_rms_norm(input: torch.Tensor, residual: torch.Tensor, normalized_shape: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], weight: torch.Tensor | None, eps: typing.SupportsFloat | typing.SupportsIndex | None, offset: typing.SupportsFloat | typing.SupportsIndex, residual_dtype: torch.dtype | None) -> tuple[torch.Tensor, torch.Tensor]:
    ...
def backends() -> dict:
    """
    name -> (device types it can serve, kernels it has)
    """
def bilinear(input1: torch.Tensor, input2: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    ...
def binary_cross_entropy_with_logits(input: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None, reduction: str, pos_weight: torch.Tensor | None) -> torch.Tensor:
    ...
def center(input: torch.Tensor, dim: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex] | None) -> torch.Tensor:
    ...
def centered_affine(input: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, dim: typing.SupportsInt | typing.SupportsIndex) -> torch.Tensor:
    ...
def cpu_capability() -> str:
    """
    The instruction set in use: baseline, avx2 or avx512.
    """
def cross_entropy(input: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None, reduction: str, ignore_index: typing.SupportsInt | typing.SupportsIndex, label_smoothing: typing.SupportsFloat | typing.SupportsIndex, z_loss: typing.SupportsFloat | typing.SupportsIndex, softcap: typing.SupportsFloat | typing.SupportsIndex | None, dtype: torch.dtype | None = None) -> torch.Tensor:
    ...
def dropout_add(input: torch.Tensor, residual: torch.Tensor, p: typing.SupportsFloat | typing.SupportsIndex, training: bool, generator: torch.Generator | None) -> torch.Tensor:
    ...
def emulate(kernel: str, launcher: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    The launcher that serves CPU tensors on "cuda" by its address; 0: none.
    """
def geglu(gate: torch.Tensor, up: torch.Tensor, approximate: str) -> torch.Tensor:
    ...
def geglu_packed(input: torch.Tensor, approximate: str) -> torch.Tensor:
    ...
def group_norm(input: torch.Tensor, num_groups: typing.SupportsInt | typing.SupportsIndex, weight: torch.Tensor | None, bias: torch.Tensor | None, eps: typing.SupportsFloat | typing.SupportsIndex, activation: str | None) -> torch.Tensor:
    ...
def halve_until(input: torch.Tensor, threshold: typing.SupportsFloat | typing.SupportsIndex) -> torch.Tensor:
    ...
def kernels() -> list[str]:
    """
    The names of all kernels.
    """
def kl_div(input: torch.Tensor, target: torch.Tensor, reduction: str, log_target: bool) -> torch.Tensor:
    ...
def layer_norm(input: torch.Tensor, normalized_shape: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], weight: torch.Tensor | None, bias: torch.Tensor | None, eps: typing.SupportsFloat | typing.SupportsIndex) -> torch.Tensor:
    ...
def leading_fourier(input: torch.Tensor, n_coeff: typing.SupportsInt | typing.SupportsIndex | None, dim: typing.SupportsInt | typing.SupportsIndex, norm: str, onesided: bool) -> torch.Tensor:
    ...
def linear(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, activation: str | None, scale: typing.SupportsFloat | typing.SupportsIndex) -> torch.Tensor:
    ...
def linear_cross_entropy(input: torch.Tensor, linear_weight: torch.Tensor, target: torch.Tensor, linear_bias: torch.Tensor | None, weight: torch.Tensor | None, reduction: str, ignore_index: typing.SupportsInt | typing.SupportsIndex, label_smoothing: typing.SupportsFloat | typing.SupportsIndex, z_loss: typing.SupportsFloat | typing.SupportsIndex, softcap: typing.SupportsFloat | typing.SupportsIndex | None, chunk_rows: typing.SupportsInt | typing.SupportsIndex | None, dtype: torch.dtype | None = None) -> torch.Tensor:
    ...
def linear_kl_div(student_hidden: torch.Tensor, student_weight: torch.Tensor, teacher_hidden: torch.Tensor, teacher_weight: torch.Tensor, student_bias: torch.Tensor | None, teacher_bias: torch.Tensor | None, temperature: typing.SupportsFloat | typing.SupportsIndex, reduction: str, chunk_rows: typing.SupportsInt | typing.SupportsIndex | None, dtype: torch.dtype | None = None) -> torch.Tensor:
    ...
def log_softmax(input: torch.Tensor, dim: typing.SupportsInt | typing.SupportsIndex) -> torch.Tensor:
    ...
def mse_loss(input: torch.Tensor, target: torch.Tensor, reduction: str, weight: torch.Tensor | None) -> torch.Tensor:
    ...
def observe(backends: collections.abc.Sequence[str], before: typing.Any, after: typing.Any) -> None:
    """
    Call before(kernel, arguments) and after(kernel, failed) around kernels that these backends run for CPU tensors.
    """
def parallel_linear(input: torch.Tensor, weights: collections.abc.Sequence[torch.Tensor], biases: collections.abc.Sequence[torch.Tensor | None], activation: str | None) -> torch.Tensor:
    ...
def poison_outputs(on: bool) -> None:
    """
    Fill outputs with NaN before every kernel runs.
    """
def register_kernels(backend: str, kernels: typing.Any, devices: collections.abc.Sequence[str]) -> list[str]:
    """
    Registers every attribute of `kernels` that has a kernel's name; returns these names.
    """
def reglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    ...
def reglu_packed(input: torch.Tensor) -> torch.Tensor:
    ...
def relu_squared(input: torch.Tensor) -> torch.Tensor:
    ...
def rms_norm(input: torch.Tensor, normalized_shape: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], weight: torch.Tensor | None, eps: typing.SupportsFloat | typing.SupportsIndex | None, offset: typing.SupportsFloat | typing.SupportsIndex) -> torch.Tensor:
    ...
def rotary(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, positions: torch.Tensor | None, interleaved: bool, heads_first: bool) -> tuple[torch.Tensor, torch.Tensor]:
    ...
def scaled_masked_softmax(input: torch.Tensor, mask: torch.Tensor | None, scale: typing.SupportsFloat | typing.SupportsIndex, causal: bool) -> torch.Tensor:
    ...
def select(backend: str | None) -> None:
    """
    Serve every call with this backend from now on; None undoes it.
    """
def serve(backend: str, device: str, on: bool) -> None:
    """
    Let a backend serve a device type, or not.
    """
def softmax(input: torch.Tensor, dim: typing.SupportsInt | typing.SupportsIndex) -> torch.Tensor:
    ...
def swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    ...
def swiglu_packed(input: torch.Tensor) -> torch.Tensor:
    ...
def tensor_reduction(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, symmetric: bool) -> torch.Tensor:
    ...
