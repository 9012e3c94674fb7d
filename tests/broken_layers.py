"""For each rule of check_layer a layer that breaks it and no other. Named after what is wrong with it."""

import ctypes
import random

import torch
from torch import nn
from torch.nn import functional as F


class Good(nn.Module):
    """y = x · weight over the last dimension, which keeps every rule. The others differ from it in one thing."""

    def __init__(self, dim=6, device=None, dtype=None):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self):
        nn.init.uniform_(self.weight, 0.5, 1.5)

    def forward(self, x):
        return x * self.weight

    def extra_repr(self):
        return f"{len(self.weight)}"


class WritesToItsInput(Good):
    def forward(self, x):
        return x.mul_(2) * self.weight


class WritesToItsParameter(Good):
    def forward(self, x):
        y = x * self.weight
        self.weight.data.mul_(0.5)
        return y * 1.0


class CountsInABuffer(Good):
    def __init__(self, *arguments, **kind):
        super().__init__(*arguments, **kind)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64, device=kind.get("device")))

    def forward(self, x):
        self.calls += 1
        return x * self.weight


class _WritesToSaved(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        kept = 2 * x
        ctx.save_for_backward(kept)
        return x.square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        (kept,) = ctx.saved_tensors
        return kept.mul_(grad)


class WritesToASavedTensor(Good):
    def forward(self, x):
        return _WritesToSaved.apply(x * self.weight)


class _WritesToGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return grad.mul_(2)


class WritesToTheIncomingGradient(Good):
    def forward(self, x):
        return _WritesToGradient.apply(x * self.weight)


class DrawsOutsideOfTorch(Good):
    def forward(self, x):
        return x * self.weight * random.uniform(0.9, 1.1)


@torch._dynamo.assume_constant_result
def threads():
    return torch.get_num_threads()


class SplitsByThreads(Good):
    def forward(self, x):
        return x * self.weight * (1 + 1e-3 * threads())


class ReadsWeightData(Good):
    """The textbook's linear layer with self.weight.data."""

    def forward(self, x):
        return x * self.weight.data


class DetachesItsInput(Good):
    def forward(self, x):
        return x.detach() * self.weight


class _WrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 3 * x * grad


class ComputesAWrongGradient(Good):
    def forward(self, x):
        return _WrongGradient.apply(x * self.weight)


class _WrongSecond(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 2 * x.detach() * grad


class DetachesInBackward(Good):
    def forward(self, x):
        return _WrongSecond.apply(x * self.weight)


class _WrongTangent(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_forward(x)
        return 2 * x

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad

    @staticmethod
    def jvp(ctx, tangent):
        return torch.zeros_like(tangent)


class HasZeroTangents(Good):
    def forward(self, x):
        return _WrongTangent.apply(x * self.weight)


class _KeepsOutput(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.y = x.sigmoid()
        return ctx.y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return grad * ctx.y * (1 - ctx.y)


class KeepsItsOutputBesideAutograd(Good):
    def forward(self, x):
        return _KeepsOutput.apply(x * self.weight)


class CannotBeFrozen(Good):
    def forward(self, x):
        self.weight.requires_grad_(True)
        return x * self.weight


class _ComputesAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return x * weight

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        return grad * weight, (grad * x).flatten(0, -2).sum(0)


class ComputesGradientsThatNobodyAskedFor(Good):
    def forward(self, x):
        return _ComputesAll.apply(x, self.weight)


class SavesWithoutGrad(Good):
    def forward(self, x):
        with torch.enable_grad():
            return x * self.weight


class KeepsItsLastInput(Good):
    def forward(self, x):
        self.last = x
        return x * self.weight


class SumsInTheDtypeOfTheInput(Good):
    """Squares of 300 are beyond float16."""

    def forward(self, x):
        return x * self.weight / (1 + (x * 100).square().mean(-1, keepdim=True)).sqrt() * 100


class ReturnsFloat32(Good):
    def forward(self, x):
        return (x * self.weight).float() if x.dtype == torch.bfloat16 else x * self.weight


class ReadsMemoryAsIfContiguous(Good):
    def forward(self, x):
        strides = [1]
        for size in reversed(x.shape[1:]):
            strides.insert(0, strides[0] * size)
        return x.as_strided(x.shape, strides) * self.weight


class _AssumesContiguous(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return 2 * grad.view(-1).view(grad.shape)


class ViewsTheIncomingGradient(Good):
    def forward(self, x):
        return _AssumesContiguous.apply(x * self.weight)


class FlattensTheRest(Good):
    """-1 is ambiguous where there are no rows."""

    def forward(self, x):
        return (x * self.weight).reshape(len(x), -1).reshape(x.shape)


class HidesAConstant(Good):
    """The textbook's constant weight."""

    def __init__(self, *arguments, **kind):
        super().__init__(*arguments, **kind)
        self.constants = {"table": [torch.rand(len(self.weight))]}

    def forward(self, x):
        return x * self.weight + self.constants["table"][0]


class HidesModules(Good):
    """The textbook's modules in a Python list."""

    def __init__(self, *arguments, **kind):
        super().__init__(*arguments, **kind)
        self.steps = [nn.Identity(), nn.Tanh()]

    def forward(self, x):
        for step in self.steps:
            x = step(x)
        return x * self.weight


class SpecialParameter(nn.Parameter):
    pass


class HasASpecialParameter(Good):
    def __init__(self, *arguments, **kind):
        super().__init__(*arguments, **kind)
        self.weight = SpecialParameter(self.weight.detach())


class SavesUnderAnotherName(Good):
    def _save_to_state_dict(self, destination, prefix, keep_vars):
        destination[prefix + "scale"] = self.weight if keep_vars else self.weight.detach()


class DoesNotSaveARandomBuffer(Good):
    def __init__(self, *arguments, **kind):
        super().__init__(*arguments, **kind)
        self.register_buffer("noise", torch.rand(self.weight.shape, device=kind.get("device")), persistent=False)

    def forward(self, x):
        return x * self.weight + self.noise.to(x.dtype)


class CannotBeCopied(Good):
    def __deepcopy__(self, memo):
        raise NotImplementedError("there is only one")


class CannotBePickled(Good):
    def __init__(self, *arguments, **kind):
        super().__init__(*arguments, **kind)
        self.activation = lambda x: x.tanh()

    def forward(self, x):
        return self.activation(x * self.weight)


class WaitsForTheDevice(Good):
    """The textbook's loop."""

    def forward(self, x):
        y = x * self.weight
        while y.abs().sum() > 1:
            y = y / 2
        return y


class HasNoShapesOnMeta(Good):
    def forward(self, x):
        if x.is_meta:
            raise NotImplementedError("no kernel for meta tensors")
        return x * self.weight


class ComputesATableOnce(Good):
    def __init__(self, *arguments, **kind):
        super().__init__(*arguments, **kind)
        self.register_buffer("table", torch.ones(self.weight.shape, device=kind.get("device")), persistent=False)

    def forward(self, x):
        return x * self.weight + self.table.to(x.dtype)


class StaysInItsDtype(Good):
    def _apply(self, function, recurse=True):
        return self if function(torch.empty(0)).dtype != torch.float32 else super()._apply(function, recurse)


class IgnoresItsDtype(Good):
    def __init__(self, dim=6, device=None, dtype=None):
        super().__init__(dim, device)


class CannotBeReset(nn.Module):
    def __init__(self, dim=6, device=None, dtype=None):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim, device=device, dtype=dtype))

    def forward(self, x):
        return x * self.weight

    def extra_repr(self):
        return f"{len(self.weight)}"


class ResetMakesNewParameters(Good):
    def reset_parameters(self):
        self.weight = nn.Parameter(torch.rand_like(self.weight))


class EvalReturnsNothing(Good):
    def train(self, mode=True):
        super().train(mode)


class BreaksTheGraph(Good):
    def forward(self, x):
        torch._dynamo.graph_break()
        return x * self.weight


class MixesDtypesUnderAutocast(Good):
    def forward(self, x):
        product = F.linear(x, torch.diag_embed(self.weight))
        return torch.zeros_like(x).index_add_(0, torch.arange(len(x), device=x.device), product)


class PrintsItsNumbers(Good):
    def extra_repr(self):
        return f"{self.weight}"


class SaysNothing(Good):
    def extra_repr(self):
        return ""


class CrashesOnNone(Good):
    def forward(self, x):
        return x * self.weight if x is not None else ctypes.string_at(0)


class TakesNone(Good):
    def forward(self, x):
        return self.weight if x is None else x * self.weight


class HangsUp(Good):
    def forward(self, x):
        if x is None:
            raise SystemExit(1)
        return x * self.weight
