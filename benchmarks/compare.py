"""Finds what became slower since an earlier run."""

from __future__ import annotations

from .records import Case, Results
from .tables import BAD, Cell, Table

TOLERANCE = 0.2


def regressions(old: Results, new: Results, tolerance: float) -> Table:
    """Rows whose time as a share of eager's, measured in the same run, grew by more than the tolerance.

    Times of different days are not compared: the machine was warmer, or busier, for eager too. A row counts only if
    the p20 – p80 bands of the two shares lie apart as well.
    """
    before = {case.key: case for case in old.cases}
    title = f"Slower than before, against eager in the same run, by more than {tolerance:.0%}"
    table = Table(title, ("what", "size", "dtype", "step", "backend", "share of eager before", "now"))
    for case in new.cases:
        earlier = before.get(case.key)
        for name in case.ours if earlier else ():
            was, now = _share(earlier, name), _share(case, name)
            if was and now and now[1] > was[1] * (1 + tolerance) and now[0] > was[2]:
                cells = (case.title, case.shape, case.dtype, f"{case.step} ({case.clock})", name, f"{was[1]:.2f}")
                table.rows.append([*map(Cell, cells), Cell(f"{now[1]:.2f}", BAD)])
    return table


def missing(old: Results, new: Results) -> list[str]:
    """Kernels that had a time before and are here without one: a failed check is a regression too."""
    before = {case.key: case for case in old.cases}
    return [
        f"{case.title} {case.shape} {case.dtype} {case.step} ({name}): {case.entries[name].note}"
        for case in new.cases for name in case.ours
        if not case.median(name) and case.key in before and before[case.key].median(name)
    ]


def _share(case: Case, name: str) -> tuple[float, float, float] | None:
    """The least, median and greatest share of eager's time that the bands allow."""
    mine, eager = case.entries.get(name), case.entries["eager"].timing
    if not mine or not mine.timing or not eager:
        return None
    ours = mine.timing
    return ours.p20 / eager.p80, ours.median / eager.median, ours.p80 / eager.p20
