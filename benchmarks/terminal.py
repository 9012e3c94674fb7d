"""Progress and tables on the terminal: rich where it can be imported, plain text otherwise."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import zip_longest

from .tables import Cell, Table

STYLES = {"good": "green", "bad": "bold red", "muted": "dim", "headline": "bold"}

# advance(steps, what comes next)
Advance = Callable[..., None]


class Plain:
    """Lines of text, also good for a log file."""

    def say(self, text: str) -> None:
        print(text, flush=True)

    @contextmanager
    def progress(self, total: int) -> Iterator[Advance]:
        done = 0

        def advance(steps: int = 1, doing: str = "") -> None:
            nonlocal done
            done += steps
            if doing:
                self.say(f"[{done}/{total}] {doing}")

        yield advance

    def table(self, table: Table) -> None:
        if not table.rows:
            self.say(f"\n{table.title}\n{table.note}")
            return
        keep = _kept(table)
        rows = [[table.columns[i] for i in keep], *([row[i].text for i in keep] for row in table.rows)]
        widths = [max(map(len, column)) for column in zip_longest(*rows, fillvalue="")]
        self.say(f"\n{table.title}")
        for index, row in enumerate(rows):
            self.say("  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip())
            if index == 0:
                self.say("  ".join("-" * width for width in widths))
        if table.note:
            self.say(table.note)


class Rich(Plain):
    def __init__(self) -> None:
        from rich.console import Console

        # Into a file or a pipe, tables keep their full width.
        self.console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)

    def say(self, text: str) -> None:
        self.console.print(text, markup=False)

    @contextmanager
    def progress(self, total: int) -> Iterator[Advance]:
        if not self.console.is_terminal:
            with super().progress(total) as advance:
                yield advance
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        doing = TextColumn("{task.description}", markup=False)
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), doing)
        with Progress(*columns, console=self.console, transient=True) as bar:
            task = bar.add_task("", total=total)

            def advance(steps: int = 1, doing: str = "") -> None:
                bar.update(task, advance=steps, **({"description": doing} if doing else {}))

            yield advance

    def table(self, table: Table) -> None:
        if not table.rows:
            super().table(table)
            return
        from rich import box, table as rich_table
        from rich.text import Text

        title = {"title": table.title, "title_justify": "left", "title_style": "bold"}
        shown = rich_table.Table(**title, box=box.SIMPLE_HEAD, pad_edge=False)
        keep = _kept(table)
        for i in keep:
            shown.add_column(table.columns[i], justify="right" if _numeric(table, i) else "left")
        for row in table.rows:
            shown.add_row(*(Text(row[i].text, style=STYLES.get(row[i].tone, "")) for i in keep))
        self.console.print(shown)
        if table.note:
            self.console.print(table.note, style="dim", markup=False)


def screen() -> Plain:
    return Rich() if find_spec("rich") else Plain()


def _kept(table: Table) -> list[int]:
    return [i for i, column in enumerate(table.columns) if column not in table.wide]


def _numeric(table: Table, column: int) -> bool:
    def number(cell: Cell) -> bool:
        return not cell.text or cell.text[0] in "0123456789+-–" or cell.text in ("n/a", "failed")

    return column > 0 and all(number(row[column]) for row in table.rows)
