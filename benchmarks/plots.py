"""The figures of the report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle

import plotly.graph_objects as go

from .records import Case, Results
from .tables import seconds

OURS = ("#d9480f", "#7048e8", "#0b7285", "#a61e4d")
EAGER, COMPILE, ROOF, FRESH = "#868e96", "#1c7ed6", "#212529", "#adb5bd"
DASHES = {"float32": "solid", "bfloat16": "dot", "float16": "dash"}
DASH_NAMES = {"float32": "solid:", "bfloat16": "dotted:", "float16": "dashed:"}
LABELS = {"compile": "torch.compile", "clone": "copy into a new tensor", "product": "bare products"}
BAR_TEXT = {"textposition": "outside", "cliponaxis": False}


def speedups(results: Results) -> go.Figure | None:
    """Bars of time saved against eager at the headline size, ours beside torch.compile."""
    cases = [case for case in results.timed("wall") if case.headline]
    if not cases:
        return None
    names = [f"{case.title} {case.dtype}<br>{case.step}" for case in cases]
    competitors = _competitors(cases, eager=False, roofs=False)
    title = "Speed-up over eager PyTorch at the headline size"
    return _speedup_bars(cases, names, competitors, title, "times as fast as eager (dashed: equal)")


def calls(results: Results) -> go.Figure | None:
    cases = results.timed("call")
    if not cases:
        return None
    names = [f"{case.title}<br>{case.step}" for case in cases]
    figure = go.Figure()
    for name, colour in _competitors(cases):
        values = [1e6 * case.median(name) if case.median(name) else None for case in cases]
        text = [f"{value:.1f}" if value else "" for value in values]
        label = "torch.nn" if name == "eager" else _label(name)
        figure.add_bar(x=names, y=values, name=label, marker_color=colour, text=text, **BAR_TEXT)
    return _styled(figure, "Cost of a call on a tiny tensor", "", "µs", 380)


def time_by_size(results: Results, title: str, step: str, clock: str) -> go.Figure | None:
    """Time against size, one colour per competitor, one dash per dtype."""
    cases = [case for case in results.timed(clock) if case.title == title and case.step == step]
    if len({case.size for case in cases}) < 2:
        return None
    cases.sort(key=lambda case: case.flops)
    dtypes = list(dict.fromkeys(case.dtype for case in cases))
    figure = go.Figure()
    for name, colour in _competitors(cases):
        for dtype in dtypes:
            points = [(case.shape, case.median(name)) for case in cases if case.dtype == dtype and case.median(name)]
            whole = len(points) == len({case.size for case in cases})  # a line would cross sizes that have no time
            figure.add_scatter(
                x=[shape for shape, _ in points],
                y=[median for _, median in points],
                mode="lines+markers" if whole else "markers",
                name=_label(name),
                legendgroup=name,
                showlegend=dtype == dtypes[0],
                text=[seconds(median) for _, median in points],
                hovertemplate=f"{_label(name)}, {dtype}<br>%{{x}}: %{{text}}<extra></extra>",
                line={"color": colour, "dash": DASHES[dtype], "width": 2},
                marker={"size": 5 if whole else 8, "color": colour} | _symbol(name),
            )
    figure.update_xaxes(type="category", tickangle=-35)
    ticks = [10.0**exponent for exponent in range(-7, 3)]
    figure.update_yaxes(type="log", tickvals=ticks, ticktext=[seconds(tick) for tick in ticks])
    lines = ", ".join(f"{DASH_NAMES[dtype]} {dtype}" for dtype in dtypes)
    return _styled(figure, f"{title}, {step}", lines, "", 430)


def roofline(results: Results) -> go.Figure | None:
    """Operations per second against operations per byte, under the two roofs measured in the same run."""
    clock = "kernel" if results.timed("kernel") else "wall"
    cases = [case for case in results.timed(clock) if case.headline]
    if not cases:
        return None
    copy = results.roofs["copy"][-1]["copy"]["median"]
    last = max(8 * product["median"] / copy for product in results.roofs["product"])
    last = max(last, *(2 * case.flops / case.bytes for case in cases))
    intensity = [last * 2.0 ** (-step / 8) for step in range(200) if last * 2.0 ** (-step / 8) >= 0.1]
    figure = go.Figure()
    for product in results.roofs["product"]:
        figure.add_scatter(
            x=intensity,
            y=[min(copy * x, product["median"]) / 1e9 for x in intensity],
            mode="lines",
            hoverinfo="skip",
            name=f"roof, {product['dtype']}",
            line={"color": ROOF, "dash": DASHES[product["dtype"]], "width": 1.5},
        )
    for name, colour in _competitors(cases, roofs=False):
        reached = [case for case in cases if case.median(name)]
        figure.add_scatter(
            x=[case.flops / case.bytes for case in reached],
            y=[case.flops / case.median(name) / 1e9 for case in reached],
            mode="markers",
            name=_label(name),
            text=[f"{case.title} {case.dtype}, {case.step}" for case in reached],
            hovertemplate="%{text}<br>%{y:.3g} GFLOP/s at %{x:.2g} FLOP/byte<extra>%{fullData.name}</extra>",
            marker={"color": colour, "size": 10, "line": {"color": "white", "width": 1}} | _symbol(name),
        )
    figure.update_xaxes(type="log", dtick=1)
    figure.update_yaxes(type="log", dtick=1)
    return _styled(figure, "Roofline", "operations per byte that must move", "GFLOP/s", 470)


def counted(results: Results) -> go.Figure | None:
    """Bars of the share that must move in what does, one colour per backend."""
    rows = results.counted["rows"] if results.counted else []
    if not rows:
        return None
    figure = go.Figure()
    for backend, colour in zip(dict.fromkeys(row["backend"] for row in rows), cycle(OURS)):
        mine = [row for row in rows if row["backend"] == backend]
        shares = [row["minimum"] / row["moved"] for row in mine]
        names, text = [f"{row['kernel']}<br>{row['dtype']}" for row in mine], [f"{share:.0%}" for share in shares]
        style = {"name": _label(backend), "marker_color": colour, **BAR_TEXT}
        figure.add_bar(y=names, x=shares, orientation="h", text=text, **style)
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(range=[0, 1.1], tickformat=".0%")
    title = f"What must move in what is counted, emulated {results.counted['gpu']}"
    return _styled(figure, title, "minimum / counted, without caches", "", 140 + 28 * len(rows))


def losses(results: Results) -> go.Figure | None:
    if results.model is None:
        return None
    figure = go.Figure()
    for name, row, colour in _variants(results.model):
        below = name == "torch.nn"  # wide and pale, so that it shows under the others
        line = {"color": colour, "width": 5 if below else 2, "dash": "dot" if "compiled" in name else "solid"}
        steps = list(range(1, len(row["losses"]) + 1))
        figure.add_scatter(x=steps, y=row["losses"], mode="lines", name=name, line=line, opacity=0.55 if below else 1)
    return _styled(figure, "Training loss: the lines cover one another", "step", "cross entropy per byte", 400)


def throughput(results: Results) -> go.Figure | None:
    if results.model is None:
        return None
    rows = list(_variants(results.model))
    values = [row["tokens_per_second"] for _, row, _ in rows]
    names, colours = [name for name, *_ in rows], [colour for *_, colour in rows]
    text = [f"{value:,.0f}" for value in values]
    figure = go.Figure(go.Bar(x=names, y=values, marker_color=colours, text=text, **BAR_TEXT))
    return _styled(figure, "Training speed", "", "tokens per second", 400)


def models(results: Results) -> go.Figure | None:
    """Bars of speed-up over the original model, of its conversion and of torch.compile on both."""
    cases = results.timed("model")
    if not cases:
        return None
    competitors = (("converted", OURS[0]), ("compile", COMPILE), ("converted, compiled", OURS[1]), ("liger_kernel", OURS[2]))
    names, title = [f"{case.title} {case.dtype}" for case in cases], "Speed-up of a training step over the original model"
    return _speedup_bars(cases, names, competitors, title, "times as fast (dashed: equal)")


def _speedup_bars(
    cases: Sequence[Case], names: Sequence[str], competitors: Iterable[tuple[str, str]], title: str, axis: str
) -> go.Figure:
    """A group of bars for each case, one for each competitor that has a time in any."""
    figure = go.Figure()
    for name, colour in competitors:
        values = [case.speedup(name) for case in cases]
        if any(values):
            text = [f"{value:.2f}x" if value else "" for value in values]
            figure.add_bar(
                y=names, x=values, orientation="h", name=_label(name), marker_color=colour, text=text, **BAR_TEXT
            )
    figure.add_vline(x=1, line_color=ROOF, line_width=1, line_dash="dash")
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(rangemode="tozero")
    height = 140 + 24 * len(cases) * max(1, len(figure.data))
    return _styled(figure, title, axis, "", height)


def _variants(model: dict) -> Iterator[tuple[str, dict, str]]:
    colours = {
        **{"torch.nn": EAGER, "torch.nn, compiled": COMPILE},
        **{"pylayers": OURS[0], "pylayers, compiled": OURS[1], "pylayers, unfused": OURS[2]},
    }
    for name, row in model["variants"].items():
        if not row["note"]:
            yield name, row, colours[name]


def _competitors(cases: Sequence[Case], *, eager: bool = True, roofs: bool = True) -> Iterator[tuple[str, str]]:
    """Names with their colours, ours first."""
    roles = {name: entry.role for case in cases for name, entry in case.entries.items() if entry.timing}
    first = [name for role in ("ours", "peer") for name in roles if roles[name] == role]
    yield from zip(first, cycle(OURS))
    for name, colour in (("compile", COMPILE), ("eager", EAGER), ("copy", ROOF), ("clone", FRESH), ("product", ROOF)):
        if name in roles and (eager or name != "eager") and (roofs or roles[name] != "roof"):
            yield name, colour


def _symbol(name: str) -> dict[str, str]:
    return {"symbol": {"eager": "diamond", "compile": "square"}.get(name, "circle")}


def _label(name: str) -> str:
    return LABELS.get(name, f"ours ({name})" if name in ("cpu", "cuda", "triton") else name)


def _styled(figure: go.Figure, title: str, x: str, y: str, height: int) -> go.Figure:
    figure.update_layout(
        title={"text": title, "x": 0.01, "y": 0.98, "yanchor": "top", "font": {"size": 16}},
        template="plotly_white",
        height=height,
        showlegend=len(figure.data) > 1,
        barmode="group",
        bargap=0.28,
        font={"family": "system-ui, sans-serif", "size": 12, "color": "#343a40"},
        margin={"l": 10, "r": 30, "t": 96, "b": 10},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )
    figure.update_xaxes(title_text=x or None, automargin=True)
    figure.update_yaxes(title_text=y or None, automargin=True)
    return figure
