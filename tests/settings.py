"""What a process may run layers under: each setting as a function that calls one and asserts what must come of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from threading import Barrier

import torch
from catalogue import EXAMPLES
from pylayers.check import as_real, compare
from pylayers.testing.contract.subject import floating, same_bits, some, tensors_in
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

import pylayers

ROWS, MORE_ROWS = 7, 11
THREADS, CALLS = 4, 5
Tensors = dict[str, Tensor]


def example(name: str, dtype: torch.dtype = torch.float32, rows: int = ROWS) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The layer, after its first call where it is lazy, and inputs of one call: the same values each time."""
    own = EXAMPLES[name]
    torch.manual_seed(0)
    layer, inputs = own.make(), own.inputs(rows)
    if name.startswith("Lazy"):
        layer(*inputs)
    if getattr(layer, "residual_dtype", None) and dtype == torch.float64:
        layer.residual_dtype = dtype  # float32 is refused beside it
    return layer.to(dtype), tuple(one.to(dtype) if floating(one) else one for one in inputs)


def leaves_of(inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
    return {f"input {i}": one.detach().clone().requires_grad_() if floating(one) else one for i, one in enumerate(inputs)}


def reals(result) -> list[Tensor]:
    return [as_real(one) for one in tensors_in(result)]


def named(outputs: list[Tensor]) -> Tensors:
    return {f"output {i}": one.detach() for i, one in enumerate(outputs)}


def run(
    layer: nn.Module, inputs: tuple[Tensor, ...], call: Callable | None = None, backward: AbstractContextManager | None = None
) -> Tensors:
    """Outputs, and the gradients of a weighted sum of them. Random layers draw the same numbers each time.

    call: what is called instead of the layer. backward: what the backward runs in.
    """
    leaves = leaves_of(inputs)
    torch.manual_seed(1)
    outputs = reals((layer if call is None else call)(*leaves.values()))
    torch.rand(3)  # what is computed again in the backward must draw what it drew
    with backward or nullcontext():
        torch.autograd.backward(outputs, [some(one.detach(), i) for i, one in enumerate(outputs)])
    wanted = leaves | dict(layer.named_parameters())
    return named(outputs) | {f"gradient of {key}": one.grad for key, one in wanted.items() if one.grad is not None}


def eager(name: str) -> Tensors:
    return run(*example(name))


def same(found: Tensors, expected: Tensors) -> None:
    assert found.keys() == expected.keys()
    for key, one in expected.items():
        assert same_bits(found[key], one), f"{key} has other bits"


def near(found: Tensors, exact: Tensors, plain: Tensors, ulps: float = 1.0) -> None:
    """Within twice the error of `plain`."""
    assert found.keys() == exact.keys() == plain.keys()
    for key, one in found.items():
        result = compare(one, exact[key].double(), plain[key], ulps=ulps, what=key)
        assert result.passed, f"{key}: error {result.error:.3g}, bound {result.bound:.3g}"


def autocast(name: str, device: str = "cpu", dtype: torch.dtype = torch.bfloat16) -> None:
    """As near to float64 as plain PyTorch under autocast."""
    layer, inputs = (one.to(device) if isinstance(one, nn.Module) else tuple(each.to(device) for each in one) for one in example(name))
    with torch.autocast(device, dtype):
        found = run(layer, inputs)
        layer.zero_grad()
        with pylayers.backend("reference"):
            plain = run(layer, inputs)
    exact, given = example(name, torch.float64)
    exact = {key: one.to(device) for key, one in run(exact, given).items()}
    near(*({key: one.to(dtype) for key, one in each.items()} if each is not exact else each for each in (found, exact, plain)))


def inference_mode(name: str) -> None:
    """The values of a training call, and training goes on afterwards. The first call of a lazy layer may be one of inference."""
    own = EXAMPLES[name]
    torch.manual_seed(0)
    layer, inputs = own.make().to(torch.float32), own.inputs(ROWS)
    with torch.inference_mode():
        if name.startswith("Lazy"):
            layer(*inputs)
        torch.manual_seed(1)
        values = named(reals(layer(*inputs)))
    found = run(layer, inputs)
    same(found, eager(name))
    same(values, {key: one for key, one in found.items() if key in values})


def checkpointed(name: str) -> None:
    for reentrant in (False, True):
        layer, inputs = example(name)
        same(run(layer, inputs, lambda *given, of=layer: checkpoint(of, *given, use_reentrant=reentrant)), eager(name))  # noqa: B023


class Functional:
    """A layer as a function of its parameters and of those inputs that are floating point. Its own tensors are NaN, so that what
    is not taken from the arguments shows."""

    def __init__(self, name: str, dtype: torch.dtype = torch.float32):
        self.layer, self.inputs = example(name, dtype)
        self.plain = run(self.layer, self.inputs)
        self.weights = [some(one, i) for i, one in enumerate(self.outputs(self.layer(*self.inputs)))]
        self.parameters, self.buffers = ({key: one.detach().clone() for key, one in found} for found in (
            self.layer.named_parameters(), self.layer.named_buffers()))  # fmt: skip
        self.floats = {f"input {i}": one for i, one in enumerate(self.inputs) if floating(one)}
        with torch.no_grad():
            for one in (*self.layer.parameters(), *self.layer.buffers()):
                one.fill_(torch.nan)

    @staticmethod
    def outputs(result) -> list[Tensor]:
        return [one.detach() for one in reals(result)]

    def __call__(self, parameters: Mapping[str, Tensor], floats: Mapping[str, Tensor], others: Mapping[str, Tensor] | None = None):
        given = {f"input {i}": one for i, one in enumerate(self.inputs)} | dict(others or {}) | dict(floats)
        return reals(functional_call(self.layer, {**parameters, **self.buffers}, tuple(given.values())))

    def total(self, *arguments) -> tuple[Tensor, list[Tensor]]:
        outputs = self(*arguments)
        return sum((one * weight).sum() for one, weight in zip(outputs, self.weights, strict=True)), outputs

    gradients = property(lambda self: torch.func.grad(self.total, argnums=(0, 1), has_aux=True))

    @staticmethod
    def named(gradients: tuple[Tensors, Tensors], outputs: list[Tensor]) -> Tensors:
        return named(outputs) | {f"gradient of {key}": one for key, one in (gradients[1] | gradients[0]).items()}


def functional_grad(name: str) -> None:
    layer = Functional(name)
    torch.manual_seed(1)
    near(layer.named(*layer.gradients(layer.parameters, layer.floats)), run(*example(name, torch.float64)), layer.plain)


def vmap(name: str) -> None:
    """Two calls at once, and their gradients: those of each by itself."""
    layer = Functional(name)
    calls = [layer.inputs, tuple(1.5 * one + 0.1 if floating(one) else one.flip(0) for one in layer.inputs)]
    both = {f"input {i}": torch.stack(pair) for i, pair in enumerate(zip(*calls, strict=True))}
    floats = {key: both.pop(key) for key in layer.floats}
    found = layer.named(*torch.func.vmap(layer.gradients, in_dims=(None, 0, 0))(layer.parameters, floats, both))
    for index, inputs in enumerate(calls):
        exact = run(example(name, torch.float64)[0], tuple(one.double() if floating(one) else one for one in inputs))
        near({key: one[index] for key, one in found.items()}, exact, run(example(name)[0], inputs))


def jvp(name: str) -> None:
    """By central differences in float64."""
    layer, step = Functional(name, torch.float64), 1e-6
    primals = (layer.parameters, layer.floats)
    tangents = tuple({key: some(one, 5 + i) for i, (key, one) in enumerate(each.items())} for each in primals)
    torch.manual_seed(1)
    found = torch.func.jvp(layer, primals, tangents)[1]
    ends = []
    for size in (step, -step):
        torch.manual_seed(1)
        ends.append(layer(*({key: one + size * way[key] for key, one in each.items()} for each, way in zip(primals, tangents, strict=True))))
    torch.testing.assert_close(found, [(high - low) / (2 * step) for high, low in zip(*ends, strict=True)], rtol=1e-6, atol=1e-7)


def threads(name: str) -> None:
    """Several at once on one layer."""
    layer, inputs = example(name)
    layer.eval()  # DropoutAdd: all threads draw from one generator, see test_dropout_add_in_threads
    expected, barrier = _without_grad_fields(layer, inputs), Barrier(THREADS)

    def work(_):
        torch.set_num_threads(1)  # of this thread: the bits of torch's transforms depend on it
        barrier.wait(timeout=60)
        return [_without_grad_fields(layer, inputs) for _ in range(CALLS)]

    with ThreadPoolExecutor(THREADS) as pool:
        for found in pool.map(work, range(THREADS), timeout=60):
            for one in found:
                same(one, expected)


def _without_grad_fields(layer: nn.Module, inputs: tuple[Tensor, ...]) -> Tensors:
    """Gradients that are returned: threads would add to one field of a shared parameter."""
    leaves = leaves_of(inputs)
    outputs = reals(layer(*leaves.values()))
    wanted = {key: one for key, one in {**leaves, **dict(layer.named_parameters())}.items() if one.requires_grad}
    gradients = torch.autograd.grad(outputs, list(wanted.values()), [some(one.detach(), i) for i, one in enumerate(outputs)])
    return named(outputs) | dict(zip(wanted, gradients, strict=True))


def cuda_graph(name: str) -> None:
    """Forward and backward, captured with some inputs and replayed with others."""
    layer, inputs = example(name)
    layer, inputs = layer.cuda().eval(), tuple(one.cuda() for one in inputs)
    others = tuple(1.5 * one + 0.1 if floating(one) else one.flip(0) for one in inputs)
    held = tuple(one.clone() for one in inputs)
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):  # libraries make their workspaces in the first calls
        for _ in range(3):
            _captured_call(layer, held)
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = _captured_call(layer, held)
    for one, other in zip(held, others, strict=True):
        one.copy_(other)
    graph.replay()
    torch.cuda.synchronize()
    same(found, _captured_call(layer, others))


def _captured_call(layer: nn.Module, inputs: tuple[Tensor, ...]) -> Tensors:
    leaves = {f"input {i}": one.detach().requires_grad_() if floating(one) else one for i, one in enumerate(inputs)}
    outputs = reals(layer(*leaves.values()))
    wanted = {key: one for key, one in {**leaves, **dict(layer.named_parameters())}.items() if one.requires_grad}
    gradients = torch.autograd.grad(outputs, list(wanted.values()), [torch.ones_like(one) for one in outputs])
    return named(outputs) | dict(zip(wanted, gradients, strict=True))
