"""The `bench` command."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from pylayers import check

from . import BENCHMARKS, MODULES, compare, conversion, counted, machine, processes, report, roofs, serving, targets, terminal, training
from .harness import MODELS, MODEL_TOKENS, Benchmark, ModuleBenchmark, Plan, dtype_name
from .measure import backend_scopes, measure, measure_call
from .records import Results

OPS = tuple(dict.fromkeys(benchmark.op for benchmark in BENCHMARKS))
LANGUAGE_MODEL = "language_model"
DTYPES = {"cpu": (torch.float32, torch.bfloat16), "cuda": (torch.bfloat16, torch.float16, torch.float32)}
QUICK_DTYPES = (torch.float32, torch.bfloat16)
# Seconds after which --quick starts no torch.compile, of a function and of the model: their columns stay empty then.
QUICK_COMPILE, QUICK_MODEL_COMPILE = 35.0, 43.0
# The headline rows carry the targets and get this many times as long.
HEADLINE_BUDGETS = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add, default = parser.add_argument, "default: %(default)s"
    add("--op", action="append", choices=(*OPS, LANGUAGE_MODEL), help="measure only this; may be repeated")
    add("--quick", action="store_true", help="the headline sizes and a tiny model, in minutes")
    add("--sizes", choices=tuple(MODELS), help="measure at the sizes of this model instead of the usual ones")
    add("--model", action="append", choices=("all", *conversion.NAMES), help="convert this model and train it; may be repeated")
    add("--device", choices=("cpu", "cuda"), help="default: cuda where there is a GPU")
    add("--gpu", default="h200", metavar="NAME", help=f"emulated to count what kernels move; {default}")
    add("--bfloat16", action="store_true", help="train the language model under bfloat16 autocast")
    add("--output", type=Path, default=Path("bench-report"), metavar="DIR", help=default)
    add("--compare", type=Path, metavar="OLD.json", help="fail if a kernel became slower since that run")
    growth = f"by how much a kernel's share of eager's time may grow; {default}"
    add("--tolerance", type=float, default=compare.TOLERANCE, help=growth)


def main(args: argparse.Namespace) -> int:
    started = time.perf_counter()
    screen = terminal.screen()
    old = _earlier(args.compare) if args.compare else None
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("bench: --device cuda needs a GPU that torch can use, and there is none")
    if why := counted.why_unknown(args.gpu):
        raise SystemExit(f"bench: {why}")
    results = Results(machine.describe(device), device.type, args.quick)
    screen.say(machine.sentence(results.machine))
    stopped: KeyboardInterrupt | Exception | None = None
    try:
        _measure_all(args, device, results, screen)
    except (KeyboardInterrupt, Exception) as error:  # what took minutes is kept
        if not results.cases:
            raise
        stopped = error
        screen.say(f"Stopped by {type(error).__name__}: this is the report of what was measured until then.")
    results.machine["busy_after"] = machine.busy_share()
    results.machine["seconds"] = round(time.perf_counter() - started, 1)
    args.output.mkdir(parents=True, exist_ok=True)
    numbers = args.output / "results.json"
    numbers.write_text(results.to_json())  # what took minutes is kept, whatever becomes of the report
    results.targets = targets.judge(results)
    for table in report.all_tables(results):
        screen.table(table)
    failed = _failures(results)
    for line in (*failed, *machine.warnings(results.machine)):
        screen.say(line)
    numbers.write_text(results.to_json())
    (args.output / "index.html").write_text(report.html(results))
    took = results.machine["seconds"]
    screen.say(f"\n{took:.0f} s. Report: {args.output}/index.html, numbers: {numbers}")
    regressed = old is not None and _report_regressions(screen, old, results, args.tolerance)
    if isinstance(stopped, Exception):
        raise stopped
    return 130 if stopped else 1 if failed or regressed else 0


def _earlier(path: Path) -> Results:
    try:
        return Results.from_json(path.read_text())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SystemExit(f"bench: --compare needs the results.json of an earlier run, got {path}: {error}") from error


def _measure_all(args: argparse.Namespace, device: torch.device, results: Results, screen: terminal.Plain) -> None:
    if args.model:
        return _measure_models(args, device, results, screen)
    benchmarks, modules = _chosen(args)
    plans = list(_plans(args, benchmarks, device))
    dtypes = QUICK_DTYPES if args.quick else DTYPES[device.type]
    checked = [(op, dtype) for op in dict.fromkeys(b.op for b in benchmarks) for dtype in dtypes]
    calls = [(module, backward) for module in modules for backward in (False, True)]
    train = LANGUAGE_MODEL in (args.op or (LANGUAGE_MODEL,)) and not args.sizes
    model_steps = training.config_for(device, args.quick).steps if train else 0
    budget = 0.15 if args.quick else 0.6
    started = time.monotonic()

    def in_time(limit: float) -> bool:
        return not args.quick or time.monotonic() - started < limit

    emulated = [] if args.quick or args.sizes else benchmarks
    counts = len(counted.steps(emulated))
    kinds = processes.KINDS if train and not args.quick else ()
    serves = bool(kinds) and device.type == "cpu"
    with screen.progress(1 + len(checked) + len(calls) + len(plans) + counts + model_steps + len(kinds) + serves) as advance:
        advance(0, "what this machine can do")
        results.roofs = roofs.measure(device, dtypes, args.quick)
        advance()
        checks = {}
        for op, dtype in checked:
            advance(1, f"checking {op} {dtype_name(dtype)} against float64")
            checks[op, dtype] = {name: check.check(op, name, device, dtype) for name in backend_scopes(op, device)}
        for module, backward in calls:
            advance(1, f"calling {module.title}")
            found = checks[module.op, torch.float32]
            results.cases.append(measure_call(module, device, backward, found, budget))
        for plan in plans:
            advance(1, str(plan))
            if plan.benchmark.product and _too_slow(plan, results.roofs):
                results.skipped.append(str(plan))
                continue
            plan = plan._replace(compiled=plan.compiled and in_time(QUICK_COMPILE))
            found = checks[plan.benchmark.op, plan.dtype]
            longer = HEADLINE_BUDGETS if plan.size == plan.benchmark.headline and not args.quick else 1
            results.cases += measure(plan, device, found, longer * budget)
        if counts:
            results.counted = counted.run(emulated, args.gpu, advance)
        if train:
            advance(0, "training the language model")
            results.model = training.compare(device, args.quick, args.bfloat16, in_time(QUICK_MODEL_COMPILE), advance)
        for kind in kinds:
            advance(1, f"training on {processes.RANKS} processes, {kind}")
            results.cases.append(processes.measure(kind, device))
        if serves:
            advance(1, "generating text in Python and in C++")
            results.cases.append(serving.measure())


def _measure_models(args: argparse.Namespace, device: torch.device, results: Results, screen: terminal.Plain) -> None:
    names = conversion.NAMES if "all" in args.model else dict.fromkeys(args.model)
    plans = [(name, dtype) for name in names for dtype in QUICK_DTYPES]  # a run that is stopped has both of what it has
    with screen.progress(1 + len(plans)) as advance:
        advance(0, "what this machine can do")
        results.roofs = roofs.measure(device, QUICK_DTYPES, quick=True)
        advance()
        for name, dtype in plans:
            advance(1, f"training {name} {dtype_name(dtype)}")
            results.cases.append(conversion.measure(name, device, dtype, results.roofs))


def _failures(results: Results) -> list[str]:
    """Kernels that were not timed because their check fails, or that raised: one line for each reason."""
    lines = {
        f"{case.op} {case.dtype} on {name}: {entry.note}; see python -m pylayers check --op {case.op}": None
        for case in results.cases
        for name, entry in case.entries.items()
        if entry.role == "ours" and "failed" in entry.note
    }
    return list(lines)


def _too_slow(plan: Plan, found: dict) -> bool:
    size = plan.benchmark.product_size(*plan.size)
    predicted = roofs.predicted_seconds(found, dtype_name(plan.dtype), *size, backward=plan.backward)
    return predicted > plan.benchmark.slowest


def _chosen(args: argparse.Namespace) -> tuple[Sequence[Benchmark], Sequence[ModuleBenchmark]]:
    """--quick leaves out what was not named and is not for it."""
    benchmarks = [one for one in BENCHMARKS if one.op in (args.op or OPS) and (one.quick or args.op or not args.quick)]
    ops = {one.op for one in benchmarks}
    return benchmarks, [] if args.sizes else [one for one in MODULES if one.op in ops]


def _plans(args: argparse.Namespace, benchmarks: Sequence[Benchmark], device: torch.device) -> Iterator[Plan]:
    """torch.compile takes seconds per row, so it competes at the headline size, or a model's."""
    for benchmark in benchmarks:
        if args.sizes:
            tokens = MODEL_TOKENS[device.type]
            chosen = tokens[1:2] if args.quick else tokens
            compiled = sizes = [benchmark.model_size(MODELS[args.sizes], count) for count in chosen]
        elif args.quick:
            sizes, compiled = benchmark.quick_sizes, [benchmark.headline] if not benchmark.product else []
        else:
            sizes, compiled = benchmark.sizes[device.type], [benchmark.headline]
        for dtype in QUICK_DTYPES if args.quick else DTYPES[device.type]:
            for size in sizes:
                for backward in (False, True):
                    yield Plan(benchmark, size, dtype, backward, size in compiled)


def _report_regressions(screen: terminal.Plain, old: Results, new: Results, tolerance: float) -> bool:
    slower, gone = compare.regressions(old, new, tolerance), compare.missing(old, new)
    if slower.rows:
        screen.table(slower)
    for line in gone:
        screen.say(f"Timed before, not now: {line}")
    if not slower.rows and not gone:
        screen.say(f"No kernel's share of eager's time grew by more than {tolerance:.0%}.")
    return bool(slower.rows or gone)
