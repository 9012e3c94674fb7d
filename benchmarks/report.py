"""One self-contained HTML page of a run: nothing is loaded from anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from importlib.util import find_spec

from . import machine, tables
from .page import PAGE
from .records import Results
from .tables import Cell, Table

NO_PLOTS = "The plots need plotly: <code>pip install torch-pylayers[bench]</code>, then run the bench again."

COUNTED = (
    "The kernels' compiled PTX, executed on the CPU and counted. This shows which kernels read or write more than they "
    "must; how fast a GPU is shows only on a GPU."
)
MODELS = "Random weights; outputs, loss and all gradients of one batch. All columns of a row were timed in turn, in one process."
CLOCKS = {
    "kernel": "Time on the GPU alone: a CUDA graph, inputs rotated so that none is in the cache.",
    "wall": (
        "What a caller waits for. All columns of a row were timed in turn, in one process, on the same tensors; under "
        "each median are its 20th and 80th percentile and the number of samples. Of copy: a copy that moves the least "
        "bytes this function can move, timed in the same turns, takes this share of our time. It writes to memory that "
        "is there (copy) or to a new tensor (clone), as a function that returns its result must."
    ),
}


def all_tables(results: Results) -> list[Table]:
    """In the order in which they are read; the verdict is last, where a terminal stops."""
    return [
        *filter(None, (tables.roofs(results), tables.calls(results))),
        *(table for title in _titles(results) for table in _of_title(results, title)),
        *filter(None, (tables.counted(results), tables.model(results), tables.processes(results), tables.serving(results), tables.models(results))),
        tables.better_plain(results),
        tables.targets(results),
    ]


def html(results: Results) -> str:
    plots = Plots(results) if find_spec("plotly") else None
    return PAGE.substitute(
        machine=escape(machine.sentence(results.machine)),
        facts=_facts(results.machine),
        warnings="".join(f'<p class="warning">{escape(text)}</p>' for text in machine.warnings(results.machine)),
        cards="".join(_cards(results)),
        sections="".join(_sections(results, plots)),
        plotly=f"<script>{plots.library()}</script>" if plots else "",
        no_plots="" if plots else f'<p class="warning">{NO_PLOTS}</p>',
    )


class Plots:
    """Turns figures into HTML; made only where plotly can be imported."""

    def __init__(self, results: Results) -> None:
        from . import plots

        self.results, self.module = results, plots

    def library(self) -> str:
        from plotly.offline import get_plotlyjs

        return get_plotlyjs()

    def show(self, name: str, *arguments: str) -> str:
        figure = getattr(self.module, name)(self.results, *arguments)
        if figure is None:
            return ""
        config = {"responsive": True, "displayModeBar": False}
        return f'<div class="plot">{figure.to_html(full_html=False, include_plotlyjs=False, config=config)}</div>'


def _sections(results: Results, plots: Plots | None) -> Iterator[str]:
    def show(*figures: tuple[str, ...]) -> str:
        drawn = "".join(plots.show(*figure) for figure in figures) if plots else ""
        return f'<div class="plots">{drawn}</div>' if drawn else ""

    yield _section("Targets", "What the package promises, judged on this run.", _table(tables.targets(results)))
    yield _section("At a glance", "", show(("speedups",), ("roofline",)))
    if results.model:
        yield _section("A real model", "", show(("losses",), ("throughput",)) + _table(tables.model(results)))
    if many := tables.processes(results):
        yield _section(many.title, "Both sets of layers take turns in the same processes; what a caller of the slowest rank waits for.", _table(many))
    if served := tables.serving(results):
        yield _section(served.title, "One thread each, by turns; the whole text is read again for each byte.", _table(served))
    if models := tables.models(results):
        yield _section(models.title, MODELS, show(("models",)) + _table(models))
    yield _section("When plain PyTorch is the better choice", "", _table(tables.better_plain(results)))
    yield _section("What this machine can do", "", _table(tables.roofs(results)))
    if calls := tables.calls(results):
        text = "A module call, without gradients and forward + backward: wall time, nearly all of it overhead."
        yield _section(calls.title, text, show(("calls",)) + _table(calls))
    explained = dict(CLOCKS)  # each said once, where it first comes up
    for title in _titles(results):
        for table in _of_title(results, title):
            clock = "kernel" if "kernel" in table.title else "wall"
            figures = [("time_by_size", title, step, clock) for step in ("forward", "forward + backward")]
            yield _section(table.title, explained.pop(clock, ""), show(*figures) + _table(table))
    if counted := tables.counted(results):
        yield _section(counted.title, COUNTED, show(("counted",)) + _table(counted))
    yield _section("Other packages", "", _table(tables.peers(results)))


def _cards(results: Results) -> Iterator[str]:
    met = [target["met"] for target in results.targets]
    yield _card(f"{met.count(True)} of {len(met) - met.count(None)}", "targets met")
    for case in results.timed("wall"):
        speedup = case.speedup(case.ours[0]) if case.ours else None
        if case.headline and speedup and case.dtype == "float32" and case.title in ("rms_norm", "swiglu"):
            yield _card(f"{speedup:.2f}x", f"as fast as eager: {case.title} {case.shape}, {case.step}")
    if results.model:
        variants = results.model["variants"]
        ratio = variants["pylayers"]["tokens_per_second"] / variants["torch.nn"]["tokens_per_second"]
        yield _card(f"{ratio:.2f}x", "as many tokens per second as torch.nn in training")


def _card(number: str, text: str) -> str:
    return f'<div class="card"><b>{escape(number)}</b><span>{escape(text)}</span></div>'


def _facts(facts: dict) -> str:
    known = {name.replace("_", " "): str(value) for name, value in facts.items() if value is not None}
    return "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in known.items())


def _section(title: str, text: str, body: str) -> str:
    paragraph = f"<p>{escape(text)}</p>" if text else ""
    return f"<section><h2>{escape(title)}</h2>{paragraph}{body}</section>" if body else ""


def _table(table: Table) -> str:
    def cell(it: Cell) -> str:
        detail = f"<small>{escape(it.detail)}</small>" if it.detail else ""
        return f'<td class="{it.tone}">{escape(it.text)}{detail}</td>'

    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    if not table.rows:
        return note
    head = "".join(f"<th>{escape(column)}</th>" for column in table.columns)
    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in table.rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{note}'


def _titles(results: Results) -> list[str]:
    return list(dict.fromkeys(case.title for case in results.timed("wall")))


def _of_title(results: Results, title: str) -> list[Table]:
    return [table for clock in ("kernel", "wall") if (table := tables.cases(results, title, clock))]
