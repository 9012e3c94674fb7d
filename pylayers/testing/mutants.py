"""Plants faults in copies of the kernels' sources, one at a time, and tells which ones the ordinary tests let live.

`python -m pylayers.testing.mutants [--kind cuda] [--only barrier] [--list]`, in a checkout. The tests are those that
anybody runs: `pylayers check`, then the test file of the op. CUDA and Triton kernels run on the emulator.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..emulator import compiler
from .fault import Fault, copy_sources
from .faults import FAULTS

LIMIT_SECONDS = 1800
WANTED_PERCENT = 95


@dataclass(frozen=True)
class Mutant:
    """A fault under a name. Without a fault: the sources as they are, which all tests must pass."""

    name: str
    kind: str
    op: str
    fault: Fault | None = None

    @property
    def text(self) -> str:
        return f"{self.fault.file}: {self.fault.why}" if self.fault else "no fault"


@dataclass(frozen=True)
class Result:
    mutant: Mutant
    noticed: str  # by what; "" if it lives
    broken: bool  # the mutant could not be compiled, which is no merit of the tests
    seconds: float

    @property
    def verdict(self) -> str:
        if self.broken:
            return "BROKEN"
        if self.noticed:
            return "died"
        return "equivalent" if self.mutant.fault and self.mutant.fault.equivalent else "SURVIVED"


def mutants(kind: str | None = None, only: str = "") -> Iterator[Mutant]:
    """Those of one kind, or all, in whose name, file, text or reason `only` is."""
    for one, faults in FAULTS.items():
        for number, fault in enumerate(faults, 1):
            mutant = Mutant(f"{one}-{fault.op}-{number}", one, fault.op, fault)
            told = " ".join((mutant.name, mutant.text, fault.old))
            if kind in (None, one) and only in told:
                yield mutant


def _environment(folder: Path) -> dict[str, str]:
    chosen = {"PYLAYERS_SOURCES": str(folder), "PYLAYERS_CACHE": str(folder.parent / "cache")}
    return {**os.environ, **chosen, "TRITON_INTERPRET": "0", "OMP_NUM_THREADS": "1", "PYLAYERS_OWN_PRODUCTS": "1"}


def run(mutant: Mutant, work: Path) -> Result:
    """Runs the tests in a process of its own, on a copy of the sources under `work`."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory(dir=work) as name:
        folder = Path(name)
        copy_sources(mutant.kind, mutant.op, folder)
        if mutant.fault:
            mutant.fault.plant(folder)
        noticed, broken = _try(mutant, folder)
    return Result(mutant, noticed, broken, time.monotonic() - start)


def _try(mutant: Mutant, folder: Path) -> tuple[str, bool]:
    command = [sys.executable, "-m", "pylayers.testing.trial", mutant.kind, mutant.op]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=_environment(folder), timeout=LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        return f"no end within {LIMIT_SECONDS} seconds", False
    if done.returncode < 0:
        return f"signal {-done.returncode}", False
    if done.returncode:
        return done.stderr.strip()[-300:], True
    noticed = json.loads(done.stdout.splitlines()[-1])
    return noticed, "CompilationError" in noticed


def prepare(work: Path) -> None:
    """A cache in which what has been compiled is found, and which goes with what is compiled for the mutants."""
    cache = work / "cache"
    cache.mkdir()
    for path in compiler.cache_directory().glob("[!.]*"):
        (cache / path.name).symlink_to(path)


def _report(result: Result) -> Result:
    told = (result.noticed or result.mutant.text).replace("\n", " ")
    print(f"{result.mutant.name:<20}{result.verdict:<12}{result.seconds:>5.0f} s  {told[:150]}", flush=True)
    return result


def run_all(chosen: list[Mutant], jobs: int, controls: bool) -> list[Result]:
    """The tests must pass on the sources as they are: SystemExit if they do not."""
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(jobs) as pool:
        work = Path(name)
        prepare(work)
        run_one = partial(run, work=work)
        unchanged = sorted({(one.kind, one.op) for one in chosen}) if controls else []
        for result in pool.map(run_one, [Mutant("control", *one) for one in unchanged]):
            if result.noticed:
                one = result.mutant
                raise SystemExit(f"mutants: without any fault {one.kind} {one.op} fails: {result.noticed}")
        return [_report(result) for result in pool.map(run_one, chosen)]


def summary(results: list[Result]) -> int:
    """0 if enough died of those that could."""
    counted = [one for one in results if one.verdict != "equivalent"]
    dead = sum(one.verdict == "died" for one in counted)
    print(f"{dead} of {len(counted)} died; {len(results) - len(counted)} equivalent ones live")
    for one in counted:
        if one.verdict != "died":
            print(f"  {one.verdict}: {one.mutant.name}, {one.mutant.text}")
    return 0 if 100 * dead >= WANTED_PERCENT * len(counted) else 1


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pylayers.testing.mutants", description=__doc__)
    parser.add_argument("--kind", choices=tuple(FAULTS), help="kernels of one kind")
    parser.add_argument("--only", default="", metavar="TEXT", help="those that have this in their text")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="how many at once")
    parser.add_argument("--list", action="store_true", help="list them, run nothing")
    parser.add_argument("--no-controls", action="store_true", help="do not run the tests on unchanged sources first")
    args = parser.parse_args(arguments)
    chosen = list(mutants(args.kind, args.only))
    if not chosen:
        raise SystemExit("mutants: there is none like that")
    if args.list:
        for one in chosen:
            print(f"{one.name:<20}{one.text}")
        return 0
    return summary(run_all(chosen, args.jobs, not args.no_controls))


if __name__ == "__main__":
    sys.exit(main())
