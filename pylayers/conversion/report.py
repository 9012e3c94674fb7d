"""What a conversion did, for people."""

from __future__ import annotations

import html
import re
from collections import Counter
from dataclasses import dataclass, field
from io import StringIO

from torch import nn

from .compare import Verdict
from .measure import Measurement, measure
from .swap import original_class


def _pattern(name: str) -> str:
    """The name without its numbers."""
    return re.sub(r"(^|\.)\d+(?=\.|$)", r"\1*", name)


@dataclass(frozen=True)
class Entry:
    """One module: what it was, what it is now, or why it was left alone."""

    name: str
    was: str
    now: str = ""
    reason: str = ""
    verdict: Verdict | None = None

    @property
    def errors(self) -> str:
        """Beside float64, relative to the largest number: of ours, and of the original."""
        if self.verdict is None:
            return ""
        ours, theirs = self.verdict.ours, self.verdict.original
        return f"{ours.forward:.1e} ({theirs.forward:.1e}), {ours.backward:.1e} ({theirs.backward:.1e})"


@dataclass
class ConversionReport:
    """What `convert` replaced and what it left alone.

    Attributes:
        replaced: one entry for each module that is ours now.
        kept: one for each module that could have been, with the reason why it is not.
        fused: entries of what was put together.
    """

    model: nn.Module = field(repr=False)
    replaced: list[Entry] = field(default_factory=list)
    kept: list[Entry] = field(default_factory=list)
    fused: list[Entry] = field(default_factory=list)

    def replace(self, name: str, was: str, now: str, verdict: Verdict | None) -> None:
        self.replaced.append(Entry(name, was, now, "" if verdict else "by its class, not compared", verdict))

    def keep(self, name: str, module: nn.Module, reason: str, verdict: Verdict | None = None) -> None:
        self.kept.append(Entry(name, type(module).__name__, reason=reason, verdict=verdict))

    def fuse(self, name: str, was: str, now: str) -> None:
        self.fused.append(Entry(name, was, now))

    def measure(self, *inputs, steps: int = 5, **named) -> Measurement:
        """Time and peak memory of a training step and of a forward, of the original and of the converted model, by turns.

        Args:
            inputs, named: what the model is called with; random ones of the sizes in its configuration if left out.
            steps: of each, whose median counts.
        """
        return measure(self.model, inputs, named, steps)

    def _rows(self) -> list[tuple[str, str, str, str, str, str]]:
        """Modules that differ in a number alone are one row: the worst errors of them."""
        groups: dict[tuple, list[Entry]] = {}
        for entry in (*self.replaced, *self.fused, *self.kept):
            groups.setdefault((_pattern(entry.name), entry.was, entry.now, entry.reason), []).append(entry)
        rows = []
        for (name, was, now, reason), entries in groups.items():
            worst = max(entries, key=lambda one: one.verdict.ours.forward if one.verdict else -1.0)
            rows.append((name or "(the model)", str(len(entries)), was, now or "as it was", worst.errors, reason))
        return rows

    HEADINGS = ("module", "number", "was", "is", "error forward, backward (original's)", "why")

    def __repr__(self) -> str:
        from rich.console import Console
        from rich.table import Table

        table = Table(title=self._title(), title_justify="left")
        for heading in self.HEADINGS:
            table.add_column(heading, overflow="fold")
        for row in self._rows():
            table.add_row(*row)
        console = Console(width=160, file=StringIO())
        console.print(table)
        return console.file.getvalue().rstrip()

    def _repr_html_(self) -> str:
        cells = lambda row, tag: "".join(f"<{tag}>{html.escape(one)}</{tag}>" for one in row)  # noqa: E731
        body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in self._rows())
        return f"<table><caption>{html.escape(self._title())}</caption><tr>{cells(self.HEADINGS, 'th')}</tr>{body}</table>"

    def _title(self) -> str:
        kinds = Counter(entry.now for entry in self.replaced)
        what = ", ".join(f"{count} {name}" for name, count in kinds.most_common()) or "nothing"
        return f"{original_class(self.model).__name__}: {what} replaced, {len(self.fused)} put together, {len(self.kept)} left alone"
