"""Results as tables of text. The terminal and the HTML report print the same ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from .records import Case, Entry, Results, geometric_means

GOOD, BAD, MUTED = "good", "bad", "muted"
RIVALS = {"eager": "eager", "compile": "torch.compile"}
WIDE = frozenset(("rate", "eager's", "error", "bound", "first step"))


@dataclass(frozen=True)
class Cell:
    text: str
    tone: str = ""
    detail: str = ""  # what only the report has room for


@dataclass
class Table:
    title: str
    columns: Sequence[str]
    rows: list[list[Cell]] = field(default_factory=list)
    note: str = ""
    wide: frozenset[str] = frozenset()  # columns that a terminal has no room for

    def add(self, *cells: Cell | str) -> None:
        self.rows.append([Cell(cell) if isinstance(cell, str) else cell for cell in cells])


def seconds(value: float) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if value * factor >= 1:
            return f"{value * factor:.3g} {unit}" if value * factor < 1000 else f"{value * factor:.0f} {unit}"
    return f"{value * 1e9:.0f} ns"


def size_of(count: float) -> str:
    for unit, factor in (("GB", 2**30), ("MB", 2**20), ("KB", 2**10)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}" if count < 1000 * factor else f"{count / factor:.0f} {unit}"
    return f"{count:.0f} B"


def targets(results: Results) -> Table:
    verdicts = {True: Cell("met", GOOD), False: Cell("missed", BAD), None: Cell("not measured", MUTED)}
    table = Table("Targets", ("", "goal", "where", "measured"))
    for target in results.targets:
        table.add(verdicts[target["met"]], target["goal"], target["where"], target["measured"])
    return table


def roofs(results: Results) -> Table:
    found = results.roofs
    table = Table("What this machine can do", ("what", "size", "measured", "p20 – p80"))
    table.add("smallest op (neg of one element)", "4 B", seconds(found["smallest_op_seconds"]), "")
    for name, label in (("copy", "copy into memory that is there"), ("clone", "copy into a new tensor")):
        for row in found["copy"]:
            table.add(label, size_of(row["bytes"]), *_rates(row[name], "GB/s"))
    for row in found["product"]:
        table.add("matrix product", f"{row['side']}³ {row['dtype']}", *_rates(row, "GFLOP/s"))
        table.add("the two products of its backward", row["dtype"], f"{row['backward'] / 1e9:.3g} GFLOP/s", "")
    table.note = "Copies count bytes read and written. A new tensor also costs the pages that the system hands out."
    return table


def calls(results: Results) -> Table | None:
    """What one call costs when there is nothing to compute."""
    cases = results.timed("call")
    if not cases:
        return None
    ours = _names(cases, "ours")
    columns = ("module", "step", "torch.nn", *ours, "share of torch.nn", "difference")
    table = Table("Cost of a call on a tiny tensor", columns)
    for case in cases:
        mine, eager = case.median(case.ours[0]) if case.ours else None, case.median("eager")
        times = (_time(case.entries.get(name)) for name in ("eager", *ours))
        share = Cell(f"{mine / eager:.2f}x", GOOD if mine <= eager else BAD) if mine else ""
        table.add(
            f"{case.title} on {case.shape}", case.step, *times, share, f"{(mine - eager) * 1e6:+.2f} µs" if mine else ""
        )
    return table


def cases(results: Results, title: str, clock: str) -> Table | None:
    """All sizes of one function under one clock."""
    rows = [case for case in results.timed(clock) if case.title == title]
    if not rows:
        return None
    ours, roofs = _names(rows, "ours"), _names(rows, "roof")
    peers = [name for name in _names(rows, "peer") if any(case.median(name) for case in rows)]
    columns = (
        "size", "dtype", "step", *RIVALS.values(), *peers, *ours, "× eager", "× compile",
        *(f"of {roof}" for roof in roofs), "rate", "peak memory", "eager's", "error", "bound",
    )  # fmt: skip
    table = Table(f"{title}: {'kernel time' if clock == 'kernel' else 'time'}", columns, wide=WIDE)
    for case in rows:
        table.add(*_case_row(case, (*RIVALS, *peers, *ours), roofs))
    if skipped := [row for row in results.skipped if row.startswith(f"{title} ")]:
        table.note = f"Left out, since the matrix products alone would take seconds here: {', '.join(skipped)}."
    return table


def better_plain(results: Results) -> Table:
    """The rows that speak for plain PyTorch."""
    columns = ("what", "size", "dtype", "step", "faster there", "by", "theirs", "ours")
    table = Table("When plain PyTorch is the better choice", columns)
    for case in results.cases:
        for rival, label in RIVALS.items():
            speedup = case.speedup(case.ours[0], rival) if case.ours else None
            if speedup is None or speedup >= 1:
                continue
            theirs, mine = case.entries[rival], case.entries[case.ours[0]]
            # Bands that do not overlap are a difference; the others may turn round in the next run.
            tone = BAD if theirs.timing.p80 < mine.timing.p20 else MUTED
            step = case.step if case.clock == "wall" else f"{case.step}, {case.clock}"
            label = "torch.nn" if case.clock == "call" else label
            factor = Cell(f"{1 / speedup:.2f}x", tone)
            table.add(case.title, case.shape, case.dtype, step, label, factor, _time(theirs), _time(mine))
    table.note = "Every row of this run in which the default backend lost. Grey: within the noise, the bands overlap."
    if not table.rows:
        table.note = "No row of this run."
    return table


def model(results: Results) -> Table | None:
    found = results.model
    if found is None:
        return None
    base = found["variants"]["torch.nn"]["tokens_per_second"]
    columns = ("layers", "tokens/s", "× torch.nn", "peak memory, a step", "held-out loss", "losses apart", "first step")
    table = Table("Training a language model", columns, wide=WIDE)
    for name, row in found["variants"].items():
        if row["note"]:
            table.add(name, Cell("n/a", MUTED, row["note"]), *[""] * 5)
            continue
        difference = found["differences"].get(name)
        apart = "" if difference is None else Cell(f"{difference:.2g}", GOOD if difference <= found["bound"] else BAD)
        speedup = _ratio(None if name == "torch.nn" else row["tokens_per_second"] / base)
        memory = size_of(row["peak_bytes"]) if row["peak_bytes"] else "n/a"
        losses = f"{row['held_out_before']:.3f} → {row['held_out_after']:.3f}"
        first = seconds(row["first_step_seconds"])
        table.add(name, f"{row['tokens_per_second']:,.0f}", speedup, memory, losses, apart, first)
    config = found["config"]
    size = f"dim {config['dim']}, hidden {config['hidden']}, {config['blocks']} blocks"
    work = f"{config['steps']} steps of {config['batch']}×{config['tokens']} bytes of Python's standard library"
    table.note = (
        f"{found['parameters']:,} parameters, {size}; {work}, {found['dtype']}, one seed, bitwise equal initial weights. "
        f"Losses apart: the greatest difference from the training loss of torch.nn over all steps. It may be "
        f"{found['bound']:.2g}, which follows from torch.nn itself: its losses part by "
        f"{found['control_difference']:.2g} when its initial weights are moved by one rounding."
    )
    return table


def models(results: Results) -> Table | None:
    """Models of other packages before and after their conversion."""
    cases = results.timed("model")
    if not cases:
        return None
    names = [name for name in dict.fromkeys(name for case in cases for name in case.entries) if any(case.median(name) for case in cases)]
    columns = (
        "model", "input", "dtype", *({**RIVALS, "eager": "original"}.get(name, name) for name in names), "converted × original", "both × compile", "products",
        "won of the rest", "peak memory", "original's",
    )  # fmt: skip
    table = Table("Models of other packages, a training step", columns)
    for case in cases:
        speedup, products = case.speedup("converted"), case.products
        won = (1 - 1 / speedup) / (1 - products) if speedup and products is not None and products < 1 else None
        ours, theirs = (case.entries[name].peak_bytes for name in ("converted", "eager"))
        table.add(
            case.title, case.shape, case.dtype, *(_time(case.entries.get(name)) for name in names), _ratio(speedup),
            _ratio(case.speedup("converted, compiled", "compile")), "" if products is None else f"{products:.0%}",
            "" if won is None else f"{won:.0%}", "" if ours is None else Cell(size_of(ours), BAD if theirs and ours > theirs else ""),
            Cell("" if theirs is None else size_of(theirs), MUTED),
        )  # fmt: skip
    means = ", ".join(f"{dtype} {mean:.2f}x" for dtype, mean in geometric_means(cases).items())
    table.note = (
        f"Geometric mean of converted × original: {means}. Products: the share of the original's time in matrix products, attention and "
        "convolutions; won of the rest: how much of the other time the conversion saved, which is more than all of it where products are ours too."
    )
    return table


def processes(results: Results) -> Table | None:
    """The language model on several processes."""
    cases = results.timed("processes")
    if not cases:
        return None
    table = Table("The language model on 2 processes, a training step", ("parallelism", "batch × tokens × dim", "torch.nn", "pylayers", "pylayers × torch.nn"))
    for case in cases:
        table.add(case.title.upper(), case.shape, _time(case.entries["eager"]), _time(case.entries["pylayers"]), _ratio(case.speedup("pylayers")))
    return table


def serving(results: Results) -> Table | None:
    """Text that the language model writes."""
    cases = results.timed("serving")
    if not cases:
        return None
    columns = ("blocks × dim × window", "eager", "package, Python", "package, C++", "C++ × eager", "C++ × package in Python")
    table = Table("Generating text, seconds a byte", columns)
    for case in cases:
        times = (_time(case.entries[name]) for name in ("eager", "package", "C++"))
        table.add(case.shape, *times, _ratio(case.speedup("C++")), _ratio(case.speedup("C++", "package")))
    return table


def counted(results: Results) -> Table | None:
    """What each GPU kernel moves, beside what it must, and what a datasheet makes of that."""
    found = results.counted
    if found is None:
        return None
    name, datasheet = found["gpu"], found["datasheet"]
    columns = (
        "kernel", "in", "size", "dtype", "backend", "minimum", "counted", "minimum / counted",
        "operations", f"model of {name}", "limit",
    )  # fmt: skip
    table = Table(f"Counted on an emulated {name}, not measured", columns, wide=frozenset(("in", "operations", "limit")))
    for row in found["rows"]:
        operations = row["counts"]["flops"] + row["counts"]["matrix_flops"]
        table.add(
            row["kernel"], row["title"], "×".join(map(str, row["size"])), row["dtype"], row["backend"],
            size_of(row["minimum"]), size_of(row["moved"]), f"{row['minimum'] / row['moved']:.0%}",
            f"{operations / 1e6:.3g} M", Cell(seconds(row["modelled_seconds"]), MUTED), row["limit"],
        )  # fmt: skip
    skipped = " ".join(f"Not counted for {backend}: {why}." for backend, why in found["notes"].items())
    if not table.rows:
        table.note = skipped
        return table
    table.note = (
        "One forward and backward; a kernel of several launches is one row. Minimum: every tensor argument once, "
        "workspace apart. Counted: "
        "sectors of 32 bytes, for each instruction of a warp that touches them, as if there were no caches, so that a "
        f"weight counts for each row that reads it. The times are a model and no measurement: the counts at the datasheet's "
        f"{datasheet['memory_bandwidth']:,.0f} GB/s, {datasheet['fp32_rate']:g} TFLOP/s float32 and "
        f"{datasheet['bf16_rate']:g} TFLOP/s of matrix products, whichever takes longest. {skipped}".rstrip()
    )
    return table


def peers(results: Results) -> Table:
    """Other packages that do the same, and why one has no times here."""
    table = Table("Other packages", ("package", "function", "here"))
    seen = set()
    for case in results.timed("wall"):
        for name in _names([case], "peer"):
            entry = case.entries[name]
            if (name, case.title) not in seen:
                seen.add((name, case.title))
                table.add(name, case.title, "measured" if entry.timing else Cell(entry.note or "n/a", MUTED))
    return table


def _case_row(case: Case, timed: Sequence[str], roofs: Sequence[str]) -> Iterator[Cell | str]:
    mine = case.ours[0] if case.ours else ""
    entry, median = case.entries.get(mine, Entry("ours")), case.median(mine)
    yield Cell(case.shape, "headline" if case.headline else "")
    yield from (case.dtype, case.step)
    yield from (_time(case.entries.get(name)) for name in timed)
    yield from (_ratio(case.speedup(mine, rival)) for rival in RIVALS)
    for roof in roofs:
        share = case.of_roof(mine, roof)
        yield "" if share is None else f"{share:.0%}"
    work, unit = (case.bytes, "GB/s") if "copy" in case.entries else (case.flops, "GFLOP/s")
    yield f"{work / median / 1e9:.3g} {unit}" if median else ""
    ours, eager = entry.peak_bytes, case.entries["eager"].peak_bytes
    yield "" if ours is None else Cell(size_of(ours), BAD if eager is not None and ours > eager else "")
    yield Cell("" if eager is None else size_of(eager), MUTED)
    yield "" if entry.error is None else f"{entry.error:.1e}"
    yield Cell("" if entry.bound is None else f"{entry.bound:.1e}", MUTED)


def _time(entry: Entry | None) -> Cell:
    if entry is None:
        return Cell("")
    if entry.timing is None:
        shown = next((word for word in ("n/a", "failed") if word in entry.note), "–")
        return Cell(shown, MUTED, entry.note)
    timing = entry.timing
    return Cell(seconds(timing.median), "", f"{seconds(timing.p20)} – {seconds(timing.p80)}, n = {timing.count}")


def _ratio(value: float | None) -> Cell:
    return Cell("") if value is None else Cell(f"{value:.2f}x", GOOD if value >= 1 else BAD)


def _rates(row: dict, unit: str) -> Iterator[Cell]:
    yield Cell(f"{row['median'] / 1e9:.3g} {unit}")
    yield Cell(f"{row['p20'] / 1e9:.3g} – {row['p80'] / 1e9:.3g}", MUTED)


def _names(cases: Sequence[Case], role: str) -> list[str]:
    return list(dict.fromkeys(name for case in cases for name, entry in case.entries.items() if entry.role == role))
