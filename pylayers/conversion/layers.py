"""Our forward for the layers of torch.nn, by the class that they have.

What our kernels do not take (parameters in another dtype than the input, integers, other devices) goes the way that it went before.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import functional

_DTYPES = {torch.float32, torch.bfloat16, torch.float16, torch.float64}
_DEVICES = {"cpu", "cuda"}


def takes(input: Tensor, weight: Tensor | None = None) -> bool:
    """Whether our kernels take this input beside this weight. Under autocast ops cast as torch's do."""
    if input.dtype not in _DTYPES or input.device.type not in _DEVICES or input.is_nested:
        return False
    return weight is None or weight.dtype == input.dtype or torch.is_autocast_enabled(input.device.type)


def watched(module: nn.Module) -> bool:
    """Whether somebody waits for its calls, so that it must be called."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks) or "forward" in vars(module)


class Linear:
    def weight_and_bias(self) -> tuple[Tensor, Tensor | None]:
        return self.weight, self.bias

    def forward(self, input: Tensor) -> Tensor:
        return functional.linear(input, self.weight, self.bias) if takes(input, self.weight) else super().forward(input)


class RMSNorm:
    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, self.normalized_shape, self.weight, self.eps) if takes(x, self.weight) else super().forward(x)


class LayerNorm:
    def forward(self, input: Tensor) -> Tensor:
        if not takes(input, self.weight):
            return super().forward(input)
        return functional.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)


class GroupNorm:
    def forward(self, input: Tensor) -> Tensor:
        if not takes(input, self.weight):
            return super().forward(input)
        return functional.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)


class Softmax:
    def forward(self, input: Tensor) -> Tensor:
        return functional.softmax(input, self.dim) if takes(input) else super().forward(input)


class LogSoftmax:
    def forward(self, input: Tensor) -> Tensor:
        return functional.log_softmax(input, self.dim) if takes(input) else super().forward(input)


class Bilinear:
    def forward(self, input1: Tensor, input2: Tensor) -> Tensor:
        if not (takes(input1, self.weight) and takes(input2, self.weight)):
            return super().forward(input1, input2)
        return functional.bilinear(input1, input2, self.weight, self.bias)


class CrossEntropyLoss:
    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        if not takes(input, self.weight) or type(input) is not Tensor:  # logits that do not exist know what to do with torch's function
            return super().forward(input, target)
        options = {name: getattr(self, name) for name in ("ignore_index", "reduction", "label_smoothing")}
        return functional.cross_entropy(input, target, self.weight, **options)


class LinearCrossEntropyLoss:
    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        linear, shape = self.linear, (self.num_classes, *self.out_features)
        if not takes(input, linear.weight) or watched(linear):
            return super().forward(input, target)
        options = {name: getattr(self, name) for name in ("weight", "reduction", "ignore_index", "label_smoothing")}
        weight, bias = linear.weight.reshape(*shape, linear.in_features), None if linear.bias is None else linear.bias.reshape(shape)
        chunk_rows = getattr(self.options, "batch_chunk_size", None)
        return functional.linear_cross_entropy(input, weight, target, linear_bias=bias, chunk_rows=chunk_rows, **options)


class MSELoss:
    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return functional.mse_loss(input, target, reduction=self.reduction) if takes(input, target) else super().forward(input, target)


class BCEWithLogitsLoss:
    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        if not all(takes(input, one) for one in (target, self.weight, self.pos_weight)):
            return super().forward(input, target)
        weights = {"weight": self.weight, "pos_weight": self.pos_weight}
        return functional.binary_cross_entropy_with_logits(input, target, reduction=self.reduction, **weights)


class KLDivLoss:
    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        if not takes(input, target):
            return super().forward(input, target)
        return functional.kl_div(input, target, reduction=self.reduction, log_target=self.log_target)


BY_CLASS: dict[type[nn.Module], type] = {
    nn.Linear: Linear,
    nn.RMSNorm: RMSNorm,
    nn.LayerNorm: LayerNorm,
    nn.GroupNorm: GroupNorm,
    nn.Softmax: Softmax,
    nn.LogSoftmax: LogSoftmax,
    nn.Bilinear: Bilinear,
    nn.CrossEntropyLoss: CrossEntropyLoss,
    nn.MSELoss: MSELoss,
    nn.BCEWithLogitsLoss: BCEWithLogitsLoss,
    nn.KLDivLoss: KLDivLoss,
}
_LINEAR_LOSS = getattr(nn, "LinearCrossEntropyLoss", ())  # torch 2.13 and later
if _LINEAR_LOSS:
    BY_CLASS[_LINEAR_LOSS] = LinearCrossEntropyLoss


def class_of(module: nn.Module) -> type[nn.Module] | None:
    """The class of torch.nn whose forward the module has: its own, or one of a subclass that keeps it."""
    return next((cls for cls in BY_CLASS if isinstance(module, cls) and type(module).forward is cls.forward), None)


def base_of(module: nn.Module) -> type[nn.Module] | None:
    """The class of torch.nn that a module with a forward of its own is derived of: it may or may not compute the same."""
    return next((cls for cls in BY_CLASS if isinstance(module, cls)), None)


def inputs_for(module: nn.Module, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Random ones for a layer of torch.nn that we have, in the dtype of its parameters."""
    like = next(module.parameters(), torch.empty(0))

    def random(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator).to(like.device, like.dtype)

    if isinstance(module, nn.Linear):
        return (random(3, 5, module.in_features),)
    if isinstance(module, nn.RMSNorm | nn.LayerNorm):
        return (random(3, 5, *module.normalized_shape),)
    if isinstance(module, nn.GroupNorm):
        return (random(2, module.num_channels, 3, 5),)
    if isinstance(module, nn.Bilinear):
        return random(7, module.in1_features), random(7, module.in2_features)
    if isinstance(module, _LINEAR_LOSS):
        rows = (7, *module.out_features)
        return random(7, module.linear.in_features), torch.randint(module.num_classes, rows, generator=generator).to(like.device)
    if isinstance(module, nn.MSELoss | nn.BCEWithLogitsLoss):
        last = [one.shape for one in module.buffers()]
        shape = (7, *(last[0] if last else (11,)))
        return random(*shape), random(*shape).sigmoid()
    if isinstance(module, nn.KLDivLoss):
        target = random(7, 11).log_softmax(-1)
        return random(7, 11).log_softmax(-1), target if module.log_target else target.exp()
    if isinstance(module, nn.CrossEntropyLoss):
        classes = 11 if module.weight is None else len(module.weight)
        return random(7, classes), torch.randint(classes, (7,), generator=generator)
    return (random(3, 5, 7, 11),)
