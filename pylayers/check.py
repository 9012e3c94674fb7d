"""Every kernel against float64, on the machine that is to run it: `python -m pylayers check`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .backends import backend as use_backend
from .backends import backends, emulated
from .init import two_sided_uniform_
from .library import doors

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
# [rows, dim]: one element, odd, a power of two, more rows than partial sums, a row longer than a block.
ROW_SIZES = ((1, 1), (3, 7), (5, 64), (33, 1001), (70, 128), (2, 4096), (1, 20000))
# [rows, inner, dim] of a matrix product.
PRODUCT_SIZES = ((1, 1, 1), (5, 7, 3), (33, 65, 70), (64, 128, 256))


@dataclass(frozen=True)
class Comparison:
    """The error of one tensor against float64, and what is allowed: both as absolute numbers."""

    error: float
    bound: float
    what: str = ""

    @property
    def passed(self) -> bool:
        return self.error <= self.bound  # False for a nan

    @property
    def ratio(self) -> float:
        if self.bound == 0:  # bits are compared
            return 0.0 if self.error == 0 else float("inf")
        return self.error / self.bound if self.error == self.error else float("inf")


@dataclass(frozen=True)
class Result:
    """The worst comparison of one op on one backend, and what went wrong beside it."""

    op: str
    backend: str
    device: str
    dtype: torch.dtype
    error: float
    bound: float
    what: str
    problem: str = ""

    @property
    def passed(self) -> bool:
        return not self.problem and self.error <= self.bound


def compare(actual: Tensor, exact: Tensor, plain: Tensor, *, ulps: float = 1.0, what: str = "") -> Comparison:
    """Compares with the exact result in float64, allowing twice the error of plain PyTorch in the same dtype.

    Both the largest error and the root mean square of the errors must stay within bound: 2 × that of `plain`, plus a floor of
    `ulps` units in the last place of the largest (root mean square) value, or of 1 where that is smaller.
    """
    if actual.shape != exact.shape or actual.dtype != plain.dtype:
        text = f"shape {tuple(actual.shape)} and dtype {actual.dtype} instead of {tuple(exact.shape)} and {plain.dtype}"
        return Comparison(float("inf"), 0.0, f"{what} has {text}")
    if exact.numel() == 0:
        return Comparison(0.0, 1.0, what)
    unit = ulps * torch.finfo(plain.dtype).eps
    found = []
    for norm in (lambda x: x.abs().max(), lambda x: x.square().mean().sqrt()):
        error, allowed, size = (float(norm(x)) for x in (actual.double() - exact, plain.double() - exact, exact))
        found.append(Comparison(error, 2 * allowed + unit * max(size, 1.0), what))
    return max(found, key=lambda one: one.ratio)


def as_real(tensor: Tensor) -> Tensor:
    """Complex numbers as pairs."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def tensors_of(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What a function returned, one tensor or several, as a tuple."""
    return result if isinstance(result, tuple) else (result,)


def outputs_of(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The same, of real tensors."""
    return tuple(as_real(one) for one in tensors_of(result))


def outputs_and_gradients(function: Callable, inputs: tuple[Tensor, ...], grads: Sequence[Tensor]) -> dict[str, Tensor]:
    leaves = [one.detach().requires_grad_() for one in inputs]
    outputs = outputs_of(function(*leaves))
    incoming = [grad.to(one.dtype) for grad, one in zip(grads, outputs, strict=True)]
    gradients = torch.autograd.grad(outputs, leaves, incoming)
    names = ["output"] if len(outputs) == 1 else [f"output {i}" for i in range(len(outputs))]
    named = {name: one.detach() for name, one in zip(names, outputs, strict=True)}
    return {**named, **{f"gradient {i}": one for i, one in enumerate(gradients)}}


def _ulps(backend: str, dtype: torch.dtype) -> float:
    if dtype == torch.float64:
        return 16.0  # the exact result has rounding errors of its own
    # Triton's interpreter truncates float32 to bfloat16, where the compiler rounds.
    interpreted = backend == "triton" and backends()["triton"].note.startswith("interpreted")
    return 2.0 if interpreted and dtype == torch.bfloat16 else 1.0


def compare_call(
    function: Callable,
    reference: Callable,
    inputs: tuple[Tensor, ...],
    backend: str,
    generator: torch.Generator,
    *,
    long_sums: bool | int = False,
) -> tuple[list[Comparison], str]:
    """Compares outputs and gradients of one call; says too if it wrote to an input or was not repeatable bit by bit.

    long_sums: one product sums what the reference sums in two steps, and rounds by a few units more; or how many such units.
    """
    device, dtype = inputs[0].device, inputs[0].dtype
    before = [one.clone() for one in inputs]
    doubles = tuple(one.double() for one in inputs)
    shapes = [one.shape for one in outputs_of(reference(*doubles))]
    grads = [torch.randn(shape, device=device, generator=generator).to(dtype) for shape in shapes]
    exact = outputs_and_gradients(reference, doubles, grads)
    plain = outputs_and_gradients(reference, inputs, grads)
    with use_backend(backend):
        actual = outputs_and_gradients(function, inputs, grads)
        again = outputs_and_gradients(function, inputs, grads)
    problem = ""
    if not all(torch.equal(a, b) for a, b in zip(inputs, before, strict=True)):
        problem = "writes to an input"
    elif not all(torch.equal(actual[key].nan_to_num(), again[key].nan_to_num()) for key in actual):
        problem = "two calls gave different bits"
    more = 4 if long_sums is True else long_sums
    ulps = _ulps(backend, dtype) * (more if more and dtype in (torch.float32, torch.float64) else 1)
    return [compare(actual[key], exact[key], plain[key], ulps=ulps, what=key) for key in exact], problem


def _check_size(benchmark, size: tuple[int, ...], backend: str, device: str, dtype: torch.dtype) -> tuple[Comparison, str]:
    generator = torch.Generator(device).manual_seed(sum(size))
    inputs = benchmark.inputs(*size, dtype=dtype, device=torch.device(device), generator=generator)
    compared, problem = compare_call(
        benchmark.checked or benchmark.function, benchmark.reference, inputs, backend, generator, long_sums=benchmark.long_sums
    )
    worst = max(compared, key=lambda one: one.ratio)
    return replace(worst, what=f"{benchmark.title} {'×'.join(map(str, size))} {worst.what}"), problem


# Kernels that draw numbers, in place, by the name of the op: function(tensor, generator=…).
DRAWS: Mapping[str, Callable] = {"two_sided_uniform": two_sided_uniform_}


def _check_draw(op: str, size: tuple[int, ...], backend: str, device: str, dtype: torch.dtype) -> Comparison:
    """The numbers must have the bits of those of plain PyTorch, by the same seed. The error is how many have not."""
    expected, actual = (torch.full(size, float("nan"), dtype=dtype, device=device) for _ in range(2))
    for tensor, name in ((expected, "reference"), (actual, backend)):
        with use_backend(name):
            DRAWS[op](tensor, generator=torch.Generator().manual_seed(sum(size)))
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    different = int((actual.view(bits) != expected.view(bits)).sum())
    return Comparison(different, 0.0, f"{op} {'×'.join(map(str, size))} numbers with other bits")


def ops() -> list[str]:
    """The names of all ops that can be checked."""
    return [*benchmarks_by_op(), *DRAWS]


def _comparisons(op: str, backend: str, device: str, dtype: torch.dtype) -> Iterator[tuple[Comparison, str]]:
    if op in DRAWS:
        for size in ROW_SIZES:
            yield _check_draw(op, size, backend, device, dtype), ""
        return
    for benchmark in benchmarks_by_op()[op]:
        for size in PRODUCT_SIZES if benchmark.product else ROW_SIZES:
            yield _check_size(benchmark, size, backend, device, dtype)


def benchmarks_by_op() -> Mapping[str, list]:
    """The declarations of every op: check and bench share them."""
    from .benchmarks import BENCHMARKS

    found: dict[str, list] = {}
    for benchmark in BENCHMARKS:
        found.setdefault(benchmark.op, []).append(benchmark)
    return found


def check(op: str, backend: str, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> Result:
    """Compares an op and its gradients on one backend with the reference in float64, outputs filled with NaN beforehand. An op
    that draws numbers is compared with the reference bit by bit.

    Args:
        op: the name of an op, such as "rms_norm".
        backend: the name of a backend that can serve `device` here.

    Returns:
        The worst comparison over all sizes, or the exception that a call raised, as its `problem`.
    """
    worst, problem = Comparison(0.0, 1.0), ""
    doors.poison_outputs(True)
    try:
        for one, found in _comparisons(op, backend, str(device), dtype):
            worst, problem = max(one, worst, key=lambda it: it.ratio), problem or found
    except Exception as error:  # a kernel that cannot run is a failed check, not the end of the others
        problem = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    finally:
        doors.poison_outputs(False)
    return Result(op, backend, str(device), dtype, worst.error, worst.bound, worst.what, problem)


def plan(op=None, backend=None, device=None, dtype=None) -> Iterator[tuple[str, str, str, torch.dtype]]:
    for name in ops():
        for one in backends().values():
            for kind in one.devices:
                for each in DTYPES:
                    wanted = ((op, name), (backend, one.name), (device, kind), (dtype, each))
                    if all(asked in (None, given) for asked, given in wanted):
                        yield name, one.name, kind, each


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--op", help="one op, such as rms_norm")
    parser.add_argument("--backend", help="one backend, such as cpu")
    parser.add_argument("--device", help="one device type: cpu or cuda")
    parser.add_argument("--dtype", help="one dtype, such as bfloat16")
    parser.add_argument("--emulate", action="store_true", help="run the CUDA and Triton kernels on an emulated GPU")
    parser.add_argument("--gpu", metavar="NAME", help="the GPU to emulate, such as a100 (default: h200)")


def _choice(name: str, value: str | None, known) -> None:
    if value is not None and value not in known:
        raise SystemExit(f"check: there is no {name} {value!r}; there are {', '.join(known)}")


def main(args: argparse.Namespace) -> int:
    dtypes = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES}
    _choice("op", args.op, ops())
    _choice("backend", args.backend, backends())
    _choice("device", args.device, ("cpu", "cuda"))
    _choice("dtype", args.dtype, dtypes)
    with _emulation(args):
        steps = list(plan(args.op, args.backend, args.device, dtypes.get(args.dtype)))
        if args.emulate:
            steps = [step for step in steps if step[1] in emulated and step[2] == "cpu"]
        return _run(steps, args)


def _emulation(args: argparse.Namespace) -> AbstractContextManager:
    if not args.emulate:
        if args.gpu:
            raise SystemExit("check: --gpu names the GPU to emulate, so it takes --emulate")
        return nullcontext()
    from . import emulator

    try:
        return emulator.on(args.gpu or "h200")
    except ValueError as error:
        raise SystemExit(f"check: {error}") from None


def _run(steps: list, args: argparse.Namespace) -> int:
    if not steps:
        notes = "; ".join(f"{one.name}: {one.note}" for one in backends().values() if args.backend in (None, one.name))
        raise SystemExit(f"check: nothing of this can run here ({notes})")
    print(f"{'op':<18}{'backend':<12}{'device':<8}{'dtype':<10}{'error':>10}{'bound':>10}  worst at")
    failed = 0
    for op, backend, device, dtype in steps:
        result = check(op, backend, device, dtype)
        failed += not result.passed
        name = str(dtype).removeprefix("torch.")
        verdict = "pass" if result.passed else "FAIL"
        told = f"{result.what}{' ' if result.what else ''}{result.problem}"
        print(f"{op:<18}{backend:<12}{device:<8}{name:<10}{result.error:>10.2e}{result.bound:>10.2e}  {verdict}  {told}", flush=True)
    print(f"{len(steps)} checks, {failed} failed")
    return 1 if failed else 0
