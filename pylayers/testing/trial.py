"""One run of an op's ordinary tests, on the sources in PYLAYERS_SOURCES.

`python -m pylayers.testing.trial cuda rms_norm`, as mutants.py calls it. The last line of its output is a JSON string:
what was noticed, empty if nothing.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

import pytest

from .. import check, emulator
from . import native_cpu

TESTS = Path(__file__).parents[2] / "tests"


class Failures:
    """A plugin of pytest that remembers what failed."""

    def __init__(self):
        self.found: list[str] = []

    def pytest_runtest_logreport(self, report) -> None:
        if report.failed:
            told = str(report.longrepr).strip().splitlines()
            self.found.append(f"{report.nodeid.split('::')[-1]}: {told[-1] if told else ''}")


def by_check(kind: str, op: str) -> str:
    """What `python -m pylayers check` notices first; "" if nothing."""
    for dtype in check.DTYPES:
        result = check.check(op, kind, "cpu", dtype)
        if not result.passed:
            told = result.problem or f"{result.what} {result.error:.2g} > {result.bound:.2g}"
            return f"check {str(dtype).removeprefix('torch.')}: {told}"
    return ""


def by_tests(kind: str, op: str) -> str:
    """What pytest notices first."""
    failures = Failures()
    files = [str(TESTS / f"test_{op}.py"), f"{TESTS / 'test_random_shapes.py'}::test_{op}"]
    wanted = f"{kind} and not reference"
    code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-k", wanted, *files], plugins=[failures])
    if failures.found:
        return failures.found[0]
    return "" if code == pytest.ExitCode.OK else f"pytest ended with {code}"


def main(kind: str, op: str) -> None:
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        if kind == "cpu":
            native_cpu.use(op)
        else:
            stack.enter_context(emulator.on(order=(0, 1, 2), backends=[kind]))
        noticed = by_check(kind, op) or by_tests(kind, op)
    print(json.dumps(noticed))


if __name__ == "__main__":
    main(*sys.argv[1:])
