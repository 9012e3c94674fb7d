"""Measures one case: who competes, who can run, how long, how much memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch

import pylayers
from pylayers import check

from .harness import Function, ModuleBenchmark, Plan, dtype_name, random
from .memory import peak_bytes
from .records import Case, Entry
from .roofs import copy_roofs, product_roof
from .timing import Variant, kernel_times, wall_times

Scope = Callable[[], AbstractContextManager]


@dataclass(frozen=True)
class Competitor:
    name: str
    role: str
    function: Callable | None
    scope: Scope = nullcontext
    note: str = ""  # why there is no function


def backend_scopes(op: str, device: torch.device) -> dict[str, Scope]:
    """The backends with kernels for an op that are worth timing here, the default one first, each with its selector."""
    serving = [
        info.name for info in pylayers.backends().values()
        if device.type in info.devices and info.timed and any(kernel.startswith(op) for kernel in info.kernels)
    ]
    serving.sort(key=lambda name: name != device.type)
    scopes: dict[str, Scope] = {name: partial(pylayers.backend, name) for name in serving}
    # What serves by default is measured as users meet it: with nothing selected.
    if device.type in scopes and "PYLAYERS_BACKEND" not in os.environ:
        scopes[device.type] = nullcontext
    return scopes


def measure(plan: Plan, device: torch.device, checks: Mapping, budget: float) -> Iterator[Case]:
    """Yields the wall case and, on a GPU, the kernel case. `checks` holds the result of each backend's check."""
    # Each case compiles afresh: kept ones would count against the recompile limit, past which eager runs unseen.
    torch.compiler.reset()
    generator = torch.Generator(device).manual_seed(0)
    sets = _input_sets(plan, device, generator)
    benchmark = plan.benchmark
    competitors = [*_backends(benchmark.op, benchmark.function, device, checks), *_rivals(plan, device)]
    grad = [torch.randn_like(one) for one in check.tensors_of(benchmark.eager(*sets[0]))] if plan.backward else None
    for clock in ("wall", "kernel") if device.type == "cuda" else ("wall",):
        case = _new_case(plan, clock, competitors)
        runnable = []
        for competitor in competitors:
            variants = [_variant(competitor, inputs, grad) for inputs in sets] if competitor.function else []
            if variants and runs(case.entries[competitor.name], variants[0]):
                runnable.append(variants)
        for name, result in checks.items():
            case.entries[name].error, case.entries[name].bound = result.error, result.bound
        roofs = _roofs(plan, case.bytes, device, len(sets))
        case.entries.update({roof.name: Entry("roof") for roof in roofs})
        by_set = [list(same) + roofs for same in zip(*runnable)]
        wall = clock == "wall"
        times = wall_times(by_set[0], device, budget=budget) if wall else kernel_times(by_set, budget=budget)
        for variant in by_set[0]:
            case.entries[variant.name].timing = times.get(variant.name)
            case.entries[variant.name].note = "" if variant.name in times else "n/a: cannot be captured in a CUDA graph"
        for first, *_ in runnable:
            with first.scope():
                case.entries[first.name].peak_bytes = peak_bytes(first.call, device)
        yield case


def measure_call(
    benchmark: ModuleBenchmark, device: torch.device, backward: bool, checks: Mapping, budget: float
) -> Case:
    """What one module call on small float32 tensors costs: no gradients at all, or forward + backward."""
    kind = dict(dtype=torch.float32, device=device, generator=torch.Generator(device).manual_seed(0))
    inputs = tuple(random(*benchmark.size, **kind) for _ in range(benchmark.inputs))
    step = "forward + backward" if backward else "forward"
    case = Case(benchmark.op, benchmark.title, benchmark.size, "float32", step, "call")
    variants = []
    eager = Competitor("eager", "eager", benchmark.eager)
    for competitor in (*_backends(benchmark.op, benchmark.ours, device, checks), eager):
        entry = case.entries[competitor.name] = Entry(competitor.role, note=competitor.note)
        if competitor.function is None:
            continue
        module = competitor.function().to(device).requires_grad_(backward)
        call = partial(module, *inputs)
        if backward:
            grad, leaves = torch.randn_like(module(*inputs)), tuple(x.clone().requires_grad_() for x in inputs)
            call = _backward_call(module, leaves, grad, list(module.parameters()))
        variant = Variant(competitor.name, competitor.role, call, competitor.scope)
        if runs(entry, variant):
            variants.append(variant)
    for name, timing in wall_times(variants, device, budget=budget, min_rounds=30).items():
        case.entries[name].timing = timing
    return case


def _new_case(plan: Plan, clock: str, competitors: Sequence[Competitor]) -> Case:
    benchmark, steps = plan.benchmark, 2 if plan.backward else 1
    return Case(
        benchmark.op, benchmark.title, plan.size, dtype_name(plan.dtype), plan.step, clock,
        bytes=sum(benchmark.elements(*plan.size)[:steps]) * plan.dtype.itemsize,
        flops=sum(benchmark.flops(*plan.size)[:steps]),
        headline=plan.size == benchmark.headline,
        entries={c.name: Entry(c.role, note=c.note) for c in competitors},
    )


def _backends(op: str, function: Callable, device: torch.device, checks: Mapping) -> Iterator[Competitor]:
    for name, scope in backend_scopes(op, device).items():
        result = checks[name]
        if result.passed:
            yield Competitor(name, "ours", function, scope)
        else:
            told = result.problem or f"error {result.error:.2g}, bound {result.bound:.2g}"
            yield Competitor(name, "ours", None, note=f"check failed: {told}")


def _rivals(plan: Plan, device: torch.device) -> Iterator[Competitor]:
    eager = plan.benchmark.eager
    yield Competitor("eager", "eager", eager)
    if plan.compiled:
        yield Competitor("compile", "compile", torch.compile(eager, dynamic=False))
    else:
        yield Competitor("compile", "compile", None, note="not compiled here")
    of_torch = plan.benchmark.rivals
    for package, load in {**of_torch, **plan.benchmark.peers}.items():
        if device.type != "cuda" and package not in of_torch:
            yield Competitor(package, "peer", None, note="n/a: needs a GPU")
            continue
        try:
            yield Competitor(package, "peer", load())
        except Exception as error:  # a package that is there may still fail to import in many ways
            yield Competitor(package, "peer", None, note=f"n/a: {_first_line(error)}")


def _input_sets(plan: Plan, device: torch.device, generator: torch.Generator) -> list[tuple[torch.Tensor, ...]]:
    """One set of inputs, and on a GPU as many as it takes to push each out of the cache before its next turn."""

    def inputs() -> tuple[torch.Tensor, ...]:
        tensors = plan.benchmark.inputs(*plan.size, dtype=plan.dtype, device=device, generator=generator)
        return tuple(tensor.requires_grad_(plan.backward) for tensor in tensors)

    sets = [inputs()]
    if device.type == "cuda":
        cache = torch.cuda.get_device_properties(device).L2_cache_size
        held = sum(tensor.nbytes for tensor in sets[0])
        sets += [inputs() for _ in range(min(32, 2 * cache // held + 1))]
    return sets


def _variant(competitor: Competitor, inputs: tuple[torch.Tensor, ...], grad: Sequence | None) -> Variant:
    function = competitor.function
    call = partial(function, *inputs) if grad is None else _backward_call(function, inputs, grad)
    return Variant(competitor.name, competitor.role, call, competitor.scope)


def _backward_call(function: Function, inputs: tuple, grad: torch.Tensor | Sequence, parameters: Sequence = ()) -> Callable:
    leaves = [*inputs, *parameters]
    return lambda: torch.autograd.grad(function(*inputs), leaves, grad)


def runs(entry: Entry, variant: Variant) -> bool:
    """Compiles and warms up; a competitor that cannot do this case keeps its row and says why."""
    try:
        with variant.scope():
            variant.call()
    except Exception as error:
        if variant.role == "eager":
            raise
        entry.note = f"{'failed' if variant.role == 'ours' else 'n/a'}: {_first_line(error)}"
        return False
    return True


def _roofs(plan: Plan, total_bytes: int, device: torch.device, sets: int) -> list[Variant]:
    if not plan.benchmark.product:
        return copy_roofs(total_bytes, device, sets)
    return [product_roof(*plan.benchmark.product_size(*plan.size), dtype=plan.dtype, device=device, backward=plan.backward)]


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0][:120]
