from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from .. import functional
from .linear import Linear


def _is_plain(branch: nn.Module) -> bool:
    """Whether the branch is our Linear and nobody watches its call."""
    watched = branch._forward_hooks or branch._forward_pre_hooks or branch._backward_hooks or branch._backward_pre_hooks
    return type(branch) is Linear and not watched and "weight" in branch._parameters and "bias" in branch._parameters


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

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return type(self)(*list(self._modules.values())[index], dim=self.dim)
        return super().__getitem__(index)

    def reset_parameters(self) -> None:
        """Of every branch that has it."""
        for branch in self:
            if hasattr(branch, "reset_parameters"):
                branch.reset_parameters()

    def _runs_as_one(self, input: Tensor) -> bool:
        branches = self._modules.values()
        if len(branches) < 2 or not all(map(_is_plain, branches)) or torch_module._has_any_global_hook():
            return False
        return len({branch.activation for branch in branches}) == 1 and self.dim in (-1, input.dim() - 1)

    def forward(self, input: Tensor) -> Tensor:
        if self._runs_as_one(input):
            held = [branch._parameters for branch in self._modules.values()]
            weights, biases = [one["weight"] for one in held], [one["bias"] for one in held]
            return functional.parallel_linear(input, weights, biases, activation=self[0].activation)
        outputs = [branch(input) for branch in self]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, self.dim)

    __repr__ = nn.Module.__repr__  # that of a ModuleList has no room for dim

    def extra_repr(self) -> str:
        return f"dim={self.dim}"
