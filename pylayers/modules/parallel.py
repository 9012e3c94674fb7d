from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from .. import functional
from .linear import Linear


class Parallel(nn.ModuleList):
    r"""Runs its branches on one input and joins their results.

    .. math:: y = [f_1(x), \ldots, f_n(x)]

    Where all branches are `pylayers.Linear` with one activation, and `dim` is the last one, they are one op
    (`pylayers.functional.parallel_linear`), which writes every product to its place in the result. A branch with a hook, a
    parametrization or a class of its own is called like any module, and so are then all branches.

    Args:
        branches: modules; one that is given twice is tied.
        dim: the dimension along which results are joined.

    Shape: input as the branches take it, output as theirs, with the sum of their sizes along `dim`.

    Parameters: those of the branches, named "0.weight" and so on, as in `torch.nn.ModuleList`. Branches are also indexed, sliced,
    iterated and counted as there.

    Raises:
        TypeError: a branch is not a module.
        ValueError: no branches.

    Equivalent to:
        >>> torch.cat([branch(input) for branch in branches], dim)
    """

    def __init__(self, *branches: nn.Module, dim: int = -1) -> None:
        if not branches:
            raise ValueError("Parallel: branches must be at least one, got none")
        for index, branch in enumerate(branches):
            if not isinstance(branch, nn.Module):
                raise TypeError(f"Parallel: branches[{index}] must be a Module, got {type(branch).__name__}")
        super().__init__(branches)
        self.dim = dim

    @property
    def branches(self) -> list[nn.Module]:
        return list(self._modules.values())

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return type(self)(*self.branches[index], dim=self.dim)
        return super().__getitem__(index)

    def reset_parameters(self) -> None:
        """Of every branch that has it."""
        for branch in self:
            if hasattr(branch, "reset_parameters"):
                branch.reset_parameters()

    def _linears(self) -> tuple[list[Tensor], list[Tensor | None], str | None] | None:
        """Weights, biases and the activation of branches that are all our Linear and that nobody watches; else None."""
        weights, biases, activations = [], [], set()
        for branch in self._modules.values():
            if type(branch) is not Linear or branch._forward_hooks or branch._forward_pre_hooks:
                return None
            held = branch._parameters
            if branch._backward_hooks or branch._backward_pre_hooks or len(held) != 2:
                return None
            weights.append(held["weight"])
            biases.append(held["bias"])
            activations.add(branch.activation)
        if len(weights) < 2 or len(activations) > 1 or torch_module._has_any_global_hook():
            return None
        return weights, biases, activations.pop()

    def forward(self, input: Tensor) -> Tensor:
        if self.dim == -1 or self.dim == input.dim() - 1:
            linears = self._linears()
            if linears:
                weights, biases, activation = linears
                return functional.parallel_linear(input, weights, biases, activation=activation)
        outputs = [branch(input) for branch in self]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, self.dim)

    __repr__ = nn.Module.__repr__  # that of a ModuleList has no room for dim

    def extra_repr(self) -> str:
        return f"dim={self.dim}"
