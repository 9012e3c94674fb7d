"""What every op must pass, as functions for its tests: each ends with an AssertionError where it does not hold."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..check import as_real, compare_call


def matches_float64(
    function: Callable, reference: Callable, inputs: tuple[Tensor, ...], backend: str | None, *, long_sums: bool = False
) -> None:
    """Output and gradients on a backend within twice the error of the reference in the same dtype, nothing written to the inputs,
    the same bits twice. long_sums: see pylayers.check.compare_call."""
    generator = torch.Generator(inputs[0].device).manual_seed(0)
    compared, problem = compare_call(function, reference, inputs, backend, generator, long_sums=long_sums)
    assert not problem, problem
    for one in compared:
        assert one.passed, f"{one.what}: error {one.error:.3g}, bound {one.bound:.3g}"


def derivatives_hold(function: Callable, inputs: tuple[Tensor, ...]) -> None:
    """First and second derivatives, forward mode and batched too, by finite differences in float64."""
    leaves = tuple(one.detach().double().requires_grad_() for one in inputs)
    torch.autograd.gradcheck(
        function, leaves, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True
    )
    torch.autograd.gradgradcheck(function, leaves, check_batched_grad=True)


def transforms_match(function: Callable, reference: Callable, inputs: tuple[Tensor, ...]) -> None:
    """torch.func over the op gives what it gives over the definition. The first input is batched."""
    x, *others = (one.detach().double() for one in inputs)
    every = tuple(range(len(inputs)))

    def total(call):
        return lambda *tensors: as_real(call(*tensors)).square().sum()

    for transform in (
        lambda call: torch.func.grad(total(call), every)(x, *others),
        lambda call: torch.func.vmap(call, in_dims=(0, *(None for _ in others)))(torch.stack([x, 2 * x]), *others),
        lambda call: torch.func.vmap(torch.func.grad(total(call)), in_dims=(0, *(None for _ in others)))(
            torch.stack([x, 2 * x]), *others
        ),
        lambda call: torch.func.jvp(call, (x, *others), (torch.ones_like(x), *others)),
        lambda call: torch.func.hessian(total(call))(x, *others),
    ):
        torch.testing.assert_close(transform(function), transform(reference), rtol=1e-9, atol=1e-9)


def compiles(function: Callable, inputs: tuple[Tensor, ...], *, batch: int = 2) -> None:
    """One graph without a break, static and dynamic, with the values and gradients of the eager call."""
    for dynamic in (False, True):
        torch.compiler.reset()
        compiled = torch.compile(function, fullgraph=True, dynamic=dynamic)
        for size in (1, batch) if dynamic else (1,):
            leaves = [one.detach().clone().requires_grad_() for one in inputs]
            leaves[0] = torch.cat([inputs[0]] * size).requires_grad_()
            expected, actual = function(*leaves), compiled(*leaves)
            torch.testing.assert_close(actual, expected)
            grad = torch.ones_like(expected)
            torch.testing.assert_close(
                torch.autograd.grad(actual, leaves, grad), torch.autograd.grad(expected, leaves, grad)
            )
