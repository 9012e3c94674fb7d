"""What both norms of a residual stream must pass, as functions that their test files call."""

import harness
import torch
from harness import normal
from torch import Tensor

import pylayers


def tensors(*size: int, parameters: int, dtype=torch.float32, residual=None, device="cpu") -> tuple[Tensor, ...]:
    """Input, residual, and as many vectors by which the norm scales and shifts."""
    streams = normal(*size, dtype=dtype, device=device), normal(*size, dtype=residual or dtype, device=device, seed=1)
    return *streams, *(normal(size[-1], dtype=dtype, device=device, seed=2 + i) for i in range(parameters))


def over_last(call, eps, residual_dtype=None, **options):
    """A float64 call keeps the residual in float64."""

    def function(x, residual, *parameters):
        dtype = None if x.dtype == torch.float64 else residual_dtype
        return call(x, residual, x.shape[-1:], *parameters, eps=eps, residual_dtype=dtype, **options)

    return function


def joined(call):
    """Both outputs as one tensor."""
    return lambda *inputs: torch.stack(call(*inputs))


def one_output_is_enough(call, reference, inputs: tuple[Tensor, ...], backend: str, unused: int) -> None:
    """Gradients where one of the outputs is not used, and so has no gradient."""
    used = 1 - unused
    leaves, exact = ([one.detach().to(kind).requires_grad_() for one in inputs] for kind in (None, torch.float64))
    with pylayers.backend(backend):
        actual = torch.autograd.grad(call(*leaves)[used].square().sum(), leaves, allow_unused=True)
    expected = torch.autograd.grad(reference(*exact)[used].square().sum(), exact, allow_unused=True)
    for one, other, leaf in zip(actual, expected, leaves, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert one.dtype == leaf.dtype
            torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-4)


def only_the_gradient_asked_for(call, reference, inputs: tuple[Tensor, ...], backend: str, wanted: int) -> None:
    leaves, exact = ([one.detach().to(kind) for one in inputs] for kind in (None, torch.float64))
    results = []
    for function, tensors, name in ((call, leaves, backend), (reference, exact, "reference")):
        tensors[wanted].requires_grad_()
        with pylayers.backend(name):
            y, total = function(*tensors)
            (y.square().sum() + total.sin().sum()).backward()
        assert [one.grad is not None for one in tensors] == [i == wanted for i in range(len(inputs))]
        results.append(tensors[wanted].grad)
    assert results[0].dtype == inputs[wanted].dtype
    torch.testing.assert_close(results[0].double(), results[1], rtol=1e-4, atol=1e-4)
