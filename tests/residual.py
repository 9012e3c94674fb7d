"""What both norms of a residual stream must pass, as functions that their test files call."""

import harness
import torch
from harness import normal
from torch import Tensor

import pylayers

FLOAT = 6  # as c10::ScalarType


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


def mixed_gradients(both, inputs: tuple[Tensor, ...], backend: str, unused: int) -> None:
    """Gradients of a 16-bit input beside a float32 residual have their dtypes, also where one output is not used."""
    with pylayers.backend(backend):
        leaves = [one.requires_grad_() for one in inputs]
        gradients = torch.autograd.grad(both(torch.float32)[0](*leaves)[1 - unused].sum(), leaves[:2])
    assert [one.dtype for one in gradients] == [torch.bfloat16, torch.float32]


def only_the_mixed_gradient_asked_for(both, inputs: tuple[Tensor, ...], backend: str, wanted: int) -> None:
    leaves = [one.requires_grad_(i == wanted) for i, one in enumerate(inputs)]
    with pylayers.backend(backend):
        y, total = both(torch.float32)[0](*leaves)
        (y.float().square().sum() + total.sin().sum()).backward()
    assert [one.grad is not None for one in leaves] == [i == wanted for i in range(len(leaves))]
    assert leaves[wanted].grad.dtype == leaves[wanted].dtype and leaves[wanted].grad.isfinite().all()


def empty(call, shape: tuple[int, ...], parameters: int, backend: str, device: str) -> None:
    inputs = [torch.ones(one, device=device, requires_grad=True) for one in (shape, shape, *[shape[-1:]] * parameters)]
    with pylayers.backend(backend):
        y, total = call(*inputs)
        (y.sum() + total.sum()).backward()
    assert all(one.shape == torch.Size(shape) for one in (y, total, inputs[0].grad, inputs[1].grad))
    assert all(torch.equal(one.grad, torch.zeros_like(one)) for one in inputs[2:])


def sums_as_torch_adds(both, x: Tensor, stream: Tensor) -> None:
    assert torch.equal(both()[0](x, stream)[1], x + stream)
    half = x.bfloat16()
    assert torch.equal(both(torch.float32)[0](half, stream)[1], half + stream)
    assert both()[0](half, stream)[1].dtype == torch.float32 and both()[0](half, half)[1].dtype == torch.bfloat16


def one_gradient_for_both(call, inputs: tuple[Tensor, ...]) -> None:
    """It is not written twice where one dtype serves."""
    x, stream, *parameters = inputs
    y, total = call(x.requires_grad_(), stream.requires_grad_(), *parameters)
    one, other = torch.autograd.grad((y.sum() + total.sum()), (x, stream))
    assert one.data_ptr() == other.data_ptr()


def saves_the_sum_alone(call, inputs: tuple[Tensor, ...]) -> None:
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y, total = call(inputs[0].requires_grad_(), *inputs[1:])
    assert [one.data_ptr() for one in saved if one.numel() >= 32] == [total.data_ptr()]
    with torch.no_grad():
        assert all(one.grad_fn is None for one in call(*inputs))


def transforms_match(call, reference, inputs: tuple[Tensor, ...]) -> None:
    def with_shared_residual(call):
        return lambda x, stream, *parameters: joined(call)(x, stream.expand(x.shape), *parameters)

    x, stream, *parameters = inputs
    harness.transforms_match(with_shared_residual(call), with_shared_residual(reference), (x, stream[0], *parameters))


def autocast(layer, dtype: torch.dtype) -> None:
    for own, stream in ((dtype, torch.float32), (dtype, dtype), (torch.float32, dtype)):
        x, r = normal(3, 8, dtype=own), normal(3, 8, dtype=stream, seed=1)
        with torch.autocast("cpu", dtype):
            y, total = layer(x, r)
        assert (y.dtype, total.dtype) == (own, torch.promote_types(own, stream))
        torch.testing.assert_close(total, x + r)
